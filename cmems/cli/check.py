"""``cmems check``."""

ABOUT = "Verify a prepared data set against its manifest, or checkpoints against their checksums."
EXAMPLE = "cmems check DATA"


def add_arguments(parser):
    """Add what the command takes."""
    parser.add_argument("path", help="a prepared data set's folder, a checkpoint, or a run's folder, of rounds too")


def run(args):
    """Check, and say that all is well."""
    from pathlib import Path

    from cmems.datasets.prepared import MANIFEST
    from cmems.errors import InputError

    path = Path(args.path)
    weights = [path] if path.is_file() else sorted([*path.glob("*.pth"), *path.glob("round_*/*.pth")])
    if weights and not (path / MANIFEST).is_file():
        check_weights(weights)
    elif path.exists():
        check_data(path)
    else:
        raise InputError(f"{path}: no such file or folder; expected a prepared data set or a checkpoint")


def check_data(path):
    """Compare a prepared data set with its manifest."""
    from cmems.datasets.prepare import check
    from cmems.datasets.prepared import PreparedDataset
    from cmems.errors import InputError, said

    problems = check(path)
    if problems:
        raise InputError(problems)
    cases = PreparedDataset(path, arrays=False).manifest["cases"]
    for line in said({name: case.get("notes", []) for name, case in cases.items()}):
        print(f"  warning: {line}")
    print(f"{path}: every file is as its manifest says; next: cmems train {path}")


def check_weights(paths):
    """Read checkpoints, which verifies their checksums."""
    from cmems.engine.checkpoint import read_checkpoint
    from cmems.errors import InputError

    problems = []
    for path in paths:
        try:
            saved = read_checkpoint(path)
        except InputError as error:
            problems += error.problems
            continue
        count = sum(values.numel() for values in saved["state_dict"].values())
        meta = saved["meta"]
        kind = f"step {meta['iter']}" if "iter" in meta else "a model file" if "model" in meta else "step unknown"
        print(f"{path}: whole; {kind}, {count:,} values")
    if problems:
        raise InputError(problems)
