"""``cmems publish``."""

from cmems.cli.common import add_options, cfg_options, shell_words

ABOUT = "Make one file of a training's weights and all that predicting needs, the data set left behind."
EXAMPLE = "cmems publish work_dirs/cmems_plus/DATA/last.pth heart.pth"


def add_arguments(parser):
    """Add what the command takes."""
    parser.add_argument("checkpoint", help="best.pth or last.pth")
    parser.add_argument("out", help="the file to write, .pth")
    parser.add_argument(
        "--config", help="take model and data from this config (default: what the checkpoint was trained with)"
    )
    add_options(parser)


def run(args):
    """Publish, and say what the file does."""
    from pathlib import Path

    from cmems.apis import publish

    model = publish(args.checkpoint, args.out, args.config, cfg_options(args))
    labels = ", ".join(f"{k} {name}" for k, name in enumerate(model.preparation.classes, 1))
    count, size = len(model.networks), Path(args.out).stat().st_size
    networks = f"{count} network{'s' * (count != 1)}"
    then = shell_words("cmems", "predict", args.out, "SCANS", "MASKS")
    print(f"{args.out}: {networks}, {size / 1e6:.1f} MB; {labels}; next: {then}")
