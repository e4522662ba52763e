"""``cmems check``."""

from cmems.cli.common import shell_words

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
    from cmems.apis.places import BESIDE, SECOND
    from cmems.datasets.prepare import check
    from cmems.datasets.prepared import PreparedDataset
    from cmems.errors import InputError, printable, said

    data = PreparedDataset(path, arrays=False)
    problems = check(path) + [problem for name in (BESIDE, SECOND) for problem in config_problems(data, name)]
    if problems:
        raise InputError(problems)
    listed = {data.root / name for name in data.manifest["files"]}
    if foreign := sorted(each.name for each in (data.root / "volumes").glob("*") if each not in listed):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        print(printable(f"  warning: volumes holds what the manifest does not list: {', '.join(foreign[:3])}{more}"))
    cases = data.manifest["cases"]
    for line in said({name: case.get("notes", []) for name, case in cases.items()}):
        print(f"  warning: {line}")
    then = f"; next: {shell_words('cmems', 'train', path)}" if (data.root / BESIDE).is_file() else ""
    print(f"{path}: every file is as its manifest says{then}")


def config_problems(data, name):
    """Yield what is wrong with a config beside a :class:`PreparedDataset`, which is read, and not run."""
    import ast

    from cmems.files import need_file

    path = data.root / name
    if not path.exists():
        return
    need_file(path)
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield f"{path}: not Python ({error})"
        return
    pairs = [(node.arg, node.value) for node in nodes if isinstance(node, ast.keyword)]
    for node in nodes:
        if isinstance(node, ast.Dict):
            pairs += [(getattr(k, "value", None), v) for k, v in zip(node.keys, node.values, strict=True)]
    for key, value in pairs:
        if key == "num_classes" and isinstance(value, ast.Constant) and value.value != data.num_classes:
            named = ", ".join(("background", *data.classes))
            yield f"{path}: num_classes={value.value!r}, but the data has {data.num_classes}: {named}"


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
