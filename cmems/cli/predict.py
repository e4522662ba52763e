"""``cmems predict``."""

import sys

from cmems.cli.common import add_config, cfg_options, said

ABOUT = "Write a mask for every NIfTI scan, on the scan's own grid."
EXAMPLE = "cmems predict DATA WORK/last.pth SCANS MASKS"


def add_arguments(parser):
    """Add what the command takes."""
    add_config(parser)
    parser.add_argument("checkpoint", help="best.pth or last.pth")
    parser.add_argument("scans", help="a NIfTI file, or a folder of them")
    parser.add_argument("out", help="folder of the masks; those of the same names are replaced")
    parser.add_argument(
        "--doubt-maps", action="store_true", help="write where networks differ, and entropy, to OUT/doubt"
    )


def run(args):
    """Segment, and say what there is."""
    from cmems.apis import predict
    from cmems.apis.trust import trust_table
    from cmems.visualization.progress import counting

    with counting("segmenting") as progress:
        masks = predict(
            args.config, args.checkpoint, args.scans, args.out, cfg_options(args), progress, args.doubt_maps
        )
    for name, orientation in masks.turned.items():
        print(f"warning: {name}: its axes lie as {orientation}, as no case that was prepared", file=sys.stderr)
    for line in said(masks.notes):
        print(f"warning: {line}", file=sys.stderr)
    labels = ", ".join(f"{k} {name}" for k, name in enumerate(masks.classes, 1))
    count = f"{len(masks.paths)} mask{'s' * (len(masks.paths) != 1)}"
    print(trust_table(masks.trust))
    print(f"{args.out}: {count} by {masks.model}; {labels}; which to look at first: trust.csv")
