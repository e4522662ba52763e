"""Measure a checkpoint: python tools/test.py configs/cmems/unet_acdc.py work_dirs/cmems/unet_acdc/best.pth."""

import argparse

from cmems.apis import test
from cmems.apis.cli import main_guard
from cmems.apis.config import OptionsAction


@main_guard
def main():
    """Parse the arguments and test."""
    parser = argparse.ArgumentParser(description="Print the metric table of a checkpoint.")
    parser.add_argument("config", help="Python-file config")
    parser.add_argument("checkpoint", help="best.pth or last.pth")
    parser.add_argument("--split", help="train-time val or test; default the config's")
    parser.add_argument("--metrics-preset", help="transunet (the paper's), ssl4mis, nan or strict")
    parser.add_argument("--show-dir", help="write overlay panels (image, reference, networks, ensemble) there")
    parser.add_argument("--out", help="folder of metrics.json and metrics.csv; default the work directory")
    parser.add_argument("--work-dir", help="where the log goes; default test_<split> beside the checkpoint")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    args = parser.parse_args()
    test(
        args.config,
        args.checkpoint,
        args.split,
        args.metrics_preset,
        args.show_dir,
        args.out,
        args.work_dir,
        args.cfg_options,
    )


if __name__ == "__main__":
    main()
