"""Find slices worth painting: python tools/pick.py SCANS OUT --number 10."""

import argparse

from cmems.apis.cli import main_guard
from cmems.apis.pick import SHEET, pick
from cmems.visualization.progress import counting


@main_guard
def main():
    """Parse the arguments, pick, and say what there is."""
    parser = argparse.ArgumentParser(description="Show slices worth painting, and write an empty mask for each.")
    parser.add_argument("scans", help="a folder of NIfTI files")
    parser.add_argument("out", help="folder of the sheet and the masks; masks that are there already are left alone")
    parser.add_argument("--number", type=int, default=5, help="how many slices, at most one a patient (default 5)")
    parser.add_argument(
        "--modality", choices=["mr", "ct"], default="mr", help="how intensities are scaled (default mr)"
    )
    parser.add_argument(
        "--patient", metavar="REGEX", help="scans whose names begin with the same match are of one patient"
    )
    parser.add_argument("--skip", nargs="+", default=(), metavar="SCAN", help="pass over these scans' patients")
    parser.add_argument(
        "--after", metavar="MASKS", help="what tools/predict.py wrote of SCANS: the most doubtful first"
    )
    args = parser.parse_args()
    with counting("looking") as progress:
        picks = pick(args.scans, args.out, args.number, args.modality, args.patient, args.skip, args.after,
                     progress=progress)  # fmt: skip
    for found in picks:
        print(f"{found.scan} slice {found.slice} of 0 to {found.depth - 1}: {found.why}")
    print(f"{args.out}/{SHEET} shows them; paint the one that shows every class best, in its mask in {args.out}")


if __name__ == "__main__":
    main()
