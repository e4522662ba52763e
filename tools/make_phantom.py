"""Write a phantom data set in a raw challenge layout: python tools/make_phantom.py cardiac data/raw/phantom_cardiac."""

import argparse

from cmems.apis.cli import main_guard
from cmems.datasets.phantom import make_abdomen, make_cardiac


@main_guard
def main():
    """Parse the arguments and write the files."""
    parser = argparse.ArgumentParser(description="Write a phantom data set in a raw challenge layout.")
    parser.add_argument("kind", choices=["cardiac", "abdomen"])
    parser.add_argument("out", help="new or empty folder")
    parser.add_argument("--train", type=int, help="training patients (cardiac 16, abdomen 10)")
    parser.add_argument("--val", type=int, help="validation patients (cardiac 4, abdomen 2)")
    parser.add_argument("--test", type=int, help="test patients (4)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = {k: getattr(args, k) for k in ("train", "val", "test") if getattr(args, k) is not None}
    make = make_cardiac if args.kind == "cardiac" else make_abdomen
    print(make(args.out, seed=args.seed, **counts))


if __name__ == "__main__":
    main()
