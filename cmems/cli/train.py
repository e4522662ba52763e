"""``cmems train``."""

import argparse

from cmems.cli.common import add_config, add_training, again, cfg_options, shell_words, training

ABOUT = "Train a config, or a prepared data set."
EXAMPLE = "cmems train DATA --hours 0.5"


def add_arguments(parser):
    """Add what the command takes."""
    add_config(parser)
    parser.add_argument(
        "--work-dir",
        help="where logs and checkpoints go; default the config's, or work_dirs/<its folder>/<its name>",
    )
    add_training(parser)
    parser.add_argument(
        "--tracker", choices=["tensorboard", "wandb", "mlflow"], help="write curves for it too, into the work directory"
    )
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
        cfg_options=cfg_options(args),
        launcher=args.launcher,
        tracker=args.tracker,
        **training(args),
    )
    if runner.rank == 0:
        weights = next(p for n in ("best.pth", "last.pth") if (p := Path(runner.work_dir, n)).is_file())
        then = shell_words("cmems", "predict", args.config, weights, "SCANS", "MASKS")
        say(f"{weights}: the weights; next: {then}{again(args)}")
