"""``cmems predict``."""

import argparse
import functools
import signal
import sys
from itertools import chain
from pathlib import Path

from cmems.cli.common import add_config, add_launcher, cfg_options, slurm_parameters, tried
from cmems.errors import InputError, said

ABOUT = "Write a mask for every scan (NIfTI, NRRD, PNG, DICOM), on the scan's own grid."
EXAMPLE = "cmems predict heart.pth SCANS MASKS"
NETWORK = "ensemble, or one network alone: 1, 2 … (default: the ensemble, of several)"
_SWITCHES = ("keep_largest", "doubt_maps", "probabilities", "pictures")
VIEWS = "mirrored and turned views to average, each at all of the model's scales (default: the model's)"


def add_arguments(parser):
    """Add what the command takes."""
    parser.usage = "%(prog)s MODEL SCANS MASKS [options]\n       %(prog)s CONFIG CHECKPOINT SCANS MASKS [options]"
    add_config(parser, what="a file of `cmems publish`; or, with a checkpoint behind it, a config: ")
    parser.add_argument("checkpoint", help="best.pth or last.pth of the config; left out behind a model file")
    parser.add_argument("scans", help="a scan, or a folder of them")
    parser.add_argument(
        "out",
        nargs="?",
        help="folder of the masks; those that predict wrote are replaced, but for this model's of the same scan",
    )
    add_choices(parser)
    parser.add_argument(
        "--doubt-maps", action="store_true", help="write where networks differ, and entropy, to OUT/doubt"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="write the mean probabilities of all classes to OUT/probabilities"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="draw the slices where networks differ most to OUT/pictures/SCAN.png"
    )
    add_launcher(parser, "parts of the scans")
    parser.add_argument(
        "--part", type=part, metavar="K/N", help="segment the K-th of N parts alone; for arrays of jobs of your own"
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


def part(text):
    """Read ``--part``."""
    number, _, parts = text.partition("/")
    return int(number), int(parts)


def network(text):
    """Read ``--network``."""
    return text if text == "ensemble" else int(text)


def segmenter_of(args, model, checkpoint=None):
    """Load a model with the choices of :func:`add_choices`."""
    from cmems.apis import Segmenter

    clean = args.clean is not False
    how = dict(network=args.network, views=args.views, keep_largest=args.keep_largest, device=args.device)
    return Segmenter(model, checkpoint, cfg_options(args), clean=clean, **how)


def words_of(args):
    """Return the command line of arguments, without how many parts there are."""
    words = [args.config, args.checkpoint, args.scans, *filter(None, [args.out])]
    words += [f"--{name}={value}" for name in ("network", "views", "device") if (value := getattr(args, name))]
    words += {None: [], True: ["--clean"], False: ["--no-clean"]}[args.clean]
    words += [f"--{name.replace('_', '-')}" for name in _SWITCHES if getattr(args, name)]
    options = [f"{key}={value}" for key, value in (args.cfg_options or {}).items()]
    return ["predict", *words, *(["--cfg-options", *options] if options else [])]


def run(args):
    """Segment, and say what there is."""
    from cmems.apis import predict
    from cmems.apis.predict_parts import predict_in_parts
    from cmems.apis.record import device_name
    from cmems.visualization.progress import counting

    # A scheduler ends a command as Ctrl-C does: what was segmented is written, and parts end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parameters = slurm_parameters(args)
    model, checkpoint, scans, out = args.config, args.checkpoint, args.scans, args.out
    if out is None:
        if Path(model).is_dir() or model.endswith(".py") or "::" in model:
            raise InputError(
                f"{model}: expected a checkpoint behind a data set or a config: "
                f"cmems predict {model} CHECKPOINT {checkpoint} {scans}"
            )
        checkpoint, scans, out = None, checkpoint, scans
    segmenter = segmenter_of(args, model, checkpoint)
    print(f"{segmenter.name}: {segmenter.whose}, on {device_name(segmenter.device.type)}", flush=True)
    if args.jobs != 1 or args.launcher != "local":
        if args.part:
            raise InputError("--part and --jobs: expected one of them; --jobs starts the parts itself")
        where = args.jobs, args.launcher, parameters, functools.partial(print, flush=True)
        masks, problem = tried(predict_in_parts, words_of(args), segmenter, scans, out, *where)
    else:
        how = {name: getattr(args, name) for name in _SWITCHES[1:]}
        with counting("segmenting") as progress:
            masks, problem = tried(
                predict, segmenter, None, scans, out, None, progress, part=args.part or (1, 1), **how
            )
    say_masks(out, masks, args.part or (1, 1))
    if problem:
        raise problem


def say_masks(out, masks, part):
    """Print which masks there are, and the most doubtful of them."""
    from cmems.apis.predict import MENDED
    from cmems.apis.trust import by_doubt, part_name, trust_table
    from cmems.datasets.preparation import ODD_AXES

    odd = {name: [(ODD_AXES, where)] for name, where in masks.turned.items()}
    for line in chain(said(odd), said(masks.notes), said({name: [(MENDED, None)] for name in masks.mended})):
        print(f"warning: {line}", file=sys.stderr)
    if not masks.paths:
        if part != (1, 1):
            print(f"{out}: no scan is left for part {part[0]} of {part[1]}")
        return
    if masks.trust:
        print(trust_table(by_doubt(masks.trust)))
    labels = ", ".join(f"{k} {name}" for k, name in enumerate(masks.classes, 1))
    count = f"{len(masks.paths)} mask{'s' * (len(masks.paths) != 1)}"
    kept = f", {len(masks.kept)} of them from before" if masks.kept else ""
    kept += f", {len(masks.mended)} by hand" if masks.mended else ""
    print(f"{out}: {count} by {masks.model}{kept}; {labels}; which to look at first: {part_name(*part)}")
