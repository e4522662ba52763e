"""``cmems train``."""

import argparse

from cmems.cli.common import add_config, cfg_options

ABOUT = "Train a config, or a prepared data set."
EXAMPLE = "cmems train DATA --hours 0.5"


def add_arguments(parser):
    """Add what the command takes."""
    add_config(parser)
    parser.add_argument(
        "--work-dir",
        help="where logs and checkpoints go; default the config's, or work_dirs/<its folder>/<its name>",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the work directory's checkpoint, if any")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that the work directory holds")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where the machine computes in it")
    parser.add_argument("--steps", type=int, help="train so many steps; validations and learning rate are fitted")
    parser.add_argument("--hours", type=float, help="train as many steps as this machine makes in that time")
    parser.add_argument("--seed", type=int, help="overrides the config's")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="what started the processes"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def run(args):
    """Train."""
    from pathlib import Path

    from cmems.apis import train
    from cmems.visualization import say

    runner = train(
        args.config,
        args.work_dir,
        args.resume,
        args.amp,
        args.seed,
        cfg_options(args),
        args.launcher,
        args.overwrite,
        args.steps,
        args.hours,
    )
    if runner.rank == 0:
        weights = next(p for n in ("best.pth", "last.pth") if (p := Path(runner.work_dir, n)).is_file())
        say(f"{weights}: the weights; next: cmems predict {args.config} {weights} SCANS MASKS")
