"""``cmems pick``."""

import sys

from cmems.cli.common import tried
from cmems.errors import said

ABOUT = "Show slices worth painting, and write an empty mask for each."
EXAMPLE = "cmems pick SCANS MASKS --number 10"


def add_arguments(parser):
    """Add what the command takes."""
    parser.add_argument("scans", help="a folder of scans")
    parser.add_argument("out", help="folder of the sheet and the masks; masks that are there already are left alone")
    parser.add_argument("--number", type=int, default=5, help="how many slices, at most one a patient")
    parser.add_argument("--modality", choices=["mr", "ct"], default="mr", help="how intensities are scaled")
    parser.add_argument("--channel", type=int, help="which channel to read of several, from 0")
    parser.add_argument(
        "--patient", metavar="REGEX", help="scans whose names begin with the same match are of one patient"
    )
    parser.add_argument("--skip", nargs="+", default=(), metavar="SCAN", help="pass over these scans' patients")
    parser.add_argument(
        "--after",
        metavar="MASKS",
        help="what cmems predict wrote of SCANS: the most doubtful first, of patients without a painted slice",
    )


def run(args):
    """Pick, and say what there is."""
    from cmems.apis.pick import SHEET, painted_scans, pick, same_beginning
    from cmems.datasets.readers.scans import scan_files
    from cmems.visualization.progress import counting

    with counting("looking") as progress:
        picks, problem = tried(pick, args.scans, args.out, args.number, args.modality, args.patient, args.skip,
                               args.after, progress=progress, channel=args.channel)  # fmt: skip
    for line in said({found.scan: found.notes for found in picks}):
        print(f"warning: {line}", file=sys.stderr)
    for found in picks:
        print(f"{found.scan} slice {found.slice} of 0 to {found.depth - 1}: {found.why}")
    scans = scan_files(args.scans)[0]
    known = painted_scans(scans, args.scans, args.out) if args.after else []
    if args.patient is None and (alike := same_beginning([*known, *(found.scan for found in picks)], scans)):
        print(
            f"{' and '.join(alike)} may be of one patient: --patient '[^_]+' takes what is before the first _ for one"
        )
    more = " … --overwrite, which takes every painted slice" if args.after else ""
    print(
        f"{args.out}/{SHEET} shows them; paint the one that shows every class best, in its mask in {args.out}; "
        f"next: put that mask into labels/ beside the folder of scans, and cmems prepare{more}"
    )
    if problem:
        raise problem
