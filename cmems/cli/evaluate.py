"""``cmems evaluate``, also ``cmems test``."""

from pathlib import Path

from cmems.cli.common import add_config, again, cfg_options, shell_words

ABOUT = "Print the metric table of a checkpoint."
EXAMPLE = "cmems evaluate DATA WORK/last.pth --split val --show-dir pictures"


def add_arguments(parser):
    """Add what the command takes."""
    add_config(parser)
    parser.add_argument("checkpoint", help="best.pth or last.pth")
    parser.add_argument("--split", help="val, test or valtest, which is both; default the config's")
    parser.add_argument(
        "--metrics-preset", help="transunet (the paper's), ssl4mis, nan or strict; default the config's"
    )
    parser.add_argument("--show-dir", help="draw the first eight cases there: image, reference, networks, ensemble")
    parser.add_argument("--out", help="folder of metrics.json and the tables metrics*.csv; default the work directory")
    parser.add_argument("--work-dir", help="where the log goes; default test_<split> beside the checkpoint")


def run(args):
    """Test."""
    from cmems.apis import test
    from cmems.engine.checkpoint import BEST, LAST
    from cmems.engine.runner import RECORD

    folder, name = Path(args.checkpoint).parent, Path(args.checkpoint).name
    test(
        args.config,
        args.checkpoint,
        args.split,
        args.metrics_preset,
        args.show_dir,
        args.out,
        args.work_dir,
        cfg_options(args),
    )
    if (folder / RECORD).is_file():
        words = ["--split", args.split] if args.split else []
        words += ["--metrics-preset", args.metrics_preset] if args.metrics_preset else []
        words += ["--checkpoint", args.checkpoint] if name != (BEST if (folder / BEST).is_file() else LAST) else []
        print(f"next: {shell_words('cmems', 'report', folder, *words)}{again(args)}")
