"""``cmems predict``."""

import argparse
import sys

from cmems.cli.common import add_config, cfg_options
from cmems.errors import said

ABOUT = "Write a mask for every scan (NIfTI, NRRD, PNG, DICOM), on the scan's own grid."
EXAMPLE = "cmems predict heart.pth SCANS MASKS"
NETWORK = "ensemble, or one network alone: 1, 2 … (default: the ensemble, of several)"
VIEWS = "mirrored and turned views to average (default: the model's)"


def add_arguments(parser):
    """Add what the command takes."""
    parser.usage = "%(prog)s MODEL SCANS MASKS [options]\n       %(prog)s CONFIG CHECKPOINT SCANS MASKS [options]"
    add_config(parser, what="a file of `cmems publish`; or, with a checkpoint behind it, a config: ")
    parser.add_argument("checkpoint", help="best.pth or last.pth of the config; left out behind a model file")
    parser.add_argument("scans", help="a scan, or a folder of them")
    parser.add_argument(
        "out",
        nargs="?",
        help="folder of the masks; those of the same names are replaced, but for what this model made of the same scan",
    )
    add_choices(parser)
    parser.add_argument(
        "--doubt-maps", action="store_true", help="write where networks differ, and entropy, to OUT/doubt"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="write the mean probabilities of all classes to OUT/probabilities"
    )


def add_choices(parser):
    """Add how a model labels."""
    parser.add_argument("--network", type=network, help=NETWORK)
    parser.add_argument("--views", type=int, choices=(1, 4, 8), help=VIEWS)
    parser.add_argument(
        "--clean", action=argparse.BooleanOptionalAction, help="clean up as the model says (default: yes)"
    )
    parser.add_argument(
        "--keep-largest", action="store_true", help="keep the largest part of each class, the last of the clean-up"
    )
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), help="default: the first that is there")


def network(text):
    """Read ``--network``."""
    return text if text == "ensemble" else int(text)


def segmenter_of(args, model, checkpoint=None):
    """Load a model with the choices of :func:`add_choices`."""
    from cmems.apis import Segmenter

    clean = args.clean is not False
    how = dict(network=args.network, views=args.views, keep_largest=args.keep_largest, device=args.device)
    return Segmenter(model, checkpoint, cfg_options(args), clean=clean, **how)


def run(args):
    """Segment, and say what there is."""
    from cmems.apis import predict
    from cmems.apis.record import device_name
    from cmems.apis.trust import trust_table
    from cmems.visualization.progress import counting

    model, checkpoint, scans, out = args.config, args.checkpoint, args.scans, args.out
    if out is None:
        checkpoint, scans, out = None, checkpoint, scans
    segmenter = segmenter_of(args, model, checkpoint)
    print(f"{segmenter.name}: {segmenter.whose}, on {device_name(segmenter.device.type)}", flush=True)
    with counting("segmenting") as progress:
        masks = predict(segmenter, None, scans, out, None, progress, args.doubt_maps, args.probabilities)
    for name, orientation in masks.turned.items():
        print(f"warning: {name}: its axes lie as {orientation}, as no case that was prepared", file=sys.stderr)
    for line in said(masks.notes):
        print(f"warning: {line}", file=sys.stderr)
    labels = ", ".join(f"{k} {name}" for k, name in enumerate(masks.classes, 1))
    count = f"{len(masks.paths)} mask{'s' * (len(masks.paths) != 1)}"
    kept = f", {len(masks.kept)} of them from before" if masks.kept else ""
    print(trust_table(masks.trust))
    print(f"{out}: {count} by {masks.model}{kept}; {labels}; which to look at first: trust.csv")
