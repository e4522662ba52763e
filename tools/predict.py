"""Segment scans: python tools/predict.py configs/cmems/unet_acdc.py work_dirs/cmems/unet_acdc/best.pth SCANS OUT."""

import argparse
import sys

from cmems.apis import predict
from cmems.apis.cli import main_guard, said
from cmems.apis.config import OptionsAction
from cmems.apis.trust import trust_table
from cmems.visualization.progress import counting


@main_guard
def main():
    """Parse the arguments, segment, and say what there is."""
    parser = argparse.ArgumentParser(description="Write a mask for every NIfTI scan, on the scan's own grid.")
    parser.add_argument("config", help="Python-file config")
    parser.add_argument("checkpoint", help="best.pth or last.pth")
    parser.add_argument("scans", help="a NIfTI file, or a folder of them")
    parser.add_argument("out", help="folder of the masks; those of the same names are replaced")
    parser.add_argument(
        "--doubt-maps", action="store_true", help="write where networks differ, and entropy, to OUT/doubt"
    )
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    args = parser.parse_args()
    with counting("segmenting") as progress:
        masks = predict(args.config, args.checkpoint, args.scans, args.out, args.cfg_options, progress, args.doubt_maps)
    for name, orientation in masks.turned.items():
        print(f"warning: {name}: its axes lie as {orientation}, as no case that was prepared", file=sys.stderr)
    for line in said(masks.notes):
        print(f"warning: {line}", file=sys.stderr)
    labels = ", ".join(f"{k} {name}" for k, name in enumerate(masks.classes, 1))
    count = f"{len(masks.paths)} mask{'s' * (len(masks.paths) != 1)}"
    print(trust_table(masks.trust))
    print(f"{args.out}: {count} by {masks.model}; {labels}; which to look at first: trust.csv")


if __name__ == "__main__":
    main()
