"""``cmems phantom``."""

from cmems.cli.common import shell_words

ABOUT = "Write a phantom data set in a raw challenge layout."
EXAMPLE = "cmems phantom cardiac data/raw/phantom_cardiac"


def add_arguments(parser):
    """Add what the command takes."""
    parser.add_argument("kind", choices=["cardiac", "abdomen"])
    parser.add_argument("out", help="new or empty folder")
    parser.add_argument("--train", type=int, help="training patients; default 16, abdomen 10")
    parser.add_argument("--val", type=int, help="validation patients; default 4, abdomen 2")
    parser.add_argument("--test", type=int, help="test patients; default 4")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients")


def run(args):
    """Write the files."""
    from cmems.datasets.phantom import make_abdomen, make_cardiac

    counts = {k: getattr(args, k) for k in ("train", "val", "test") if getattr(args, k) is not None}
    make = make_cardiac if args.kind == "cardiac" else make_abdomen
    layout = dict(cardiac="acdc", abdomen="synapse")[args.kind]
    then = shell_words("cmems", "prepare", layout, args.out, "DATA", "--size", 64)
    print(f"{make(args.out, seed=args.seed, **counts)}: next: {then}")
