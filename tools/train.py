"""Train a config: python tools/train.py configs/cmems/unet_acdc.py."""

import argparse

from cmems.apis import train
from cmems.apis.cli import main_guard
from cmems.apis.config import OptionsAction


@main_guard
def main():
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description="Train a config.")
    parser.add_argument("config", help="Python-file config")
    parser.add_argument("--work-dir", help="where logs and checkpoints go; default work_dirs/<its folder>/<its name>")
    parser.add_argument("--resume", action="store_true", help="go on from the work directory's checkpoint, if any")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that the work directory holds")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where the machine computes in it")
    parser.add_argument("--steps", type=int, help="train so many steps; validations and learning rate are fitted")
    parser.add_argument("--hours", type=float, help="train as many steps as this machine makes in that time")
    parser.add_argument("--seed", type=int, help="overrides the config's")
    parser.add_argument(
        "--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help="e.g. train_cfg.max_iters=100"
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    train(
        args.config,
        args.work_dir,
        args.resume,
        args.amp,
        args.seed,
        args.cfg_options,
        args.launcher,
        args.overwrite,
        args.steps,
        args.hours,
    )


if __name__ == "__main__":
    main()
