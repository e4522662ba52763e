"""The processes of one training: what started them, the folder that they share, and what ends with one of them."""

import gc
import os
import re
from contextlib import contextmanager
from pathlib import Path

import torch

from cmems import processes
from cmems.errors import InputError
from cmems.locks import folder_lock

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
# What tells a process of a training which it is, of how many, and where the others are; the first one, its rank.
_TOLD_BY = dict(
    pytorch=("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    slurm=("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
    mpi=("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "MASTER_ADDR"),
)
_NUMBER = re.compile("(RANK|SIZE|PORT|PROCID|NTASKS)$")
_STARTERS = dict(pytorch="torchrun", slurm="srun", mpi="mpirun")


@contextmanager
def together(work_dir):
    """Say in one line that another process of the training ended."""
    try:
        yield
    except RuntimeError as error:
        if not processes.lost(error):
            raise
        raise InputError(
            f"training stopped: another of its processes ended, whose own message says why; --resume goes on from "
            f"{work_dir}"
        ) from error


@contextmanager
def alone(work_dir, launcher):
    """Keep the work directory to this run, and free of what a killed one was writing."""
    if rank_of(launcher) != 0:
        yield
        return
    with folder_lock(work_dir, "training"):
        for part in Path(work_dir).glob(".*.pth.*.part"):
            part.unlink(missing_ok=True)
        yield


def check_launcher(launcher):
    """Refuse a launcher that did not start this process."""
    if launcher not in LAUNCHERS:
        raise InputError(f"--launcher: expected one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    names = _TOLD_BY.get(launcher, ())
    missing = [name for name in names if name not in os.environ]
    if missing and not torch.distributed.is_initialized():
        raise InputError(
            f"--launcher {launcher}: expected to be started by {_STARTERS[launcher]}, but {missing[0]} is not set"
        )
    told = {name: _number(launcher, name) for name in names if _NUMBER.search(name)}
    size = next((told[name] for name in told if name.endswith(("SIZE", "NTASKS"))), 0)
    for name, limit in ((names[0], size), ("MASTER_PORT", 1 << 16)) if names else ():
        if name in os.environ and _number(launcher, name) >= limit:
            raise InputError(f"--launcher {launcher}: {name}: expected a number below {limit}, got {os.environ[name]}")


def rank_of(launcher):
    """Return which of a training's processes this is, before they know each other."""
    return _number(launcher, _TOLD_BY.get(launcher, ("",))[0])


def _number(launcher, name):
    """Return a number that whoever started this process told it; 0 where none was."""
    text = os.environ.get(name, "0")
    if not text.isdecimal():
        raise InputError(f"--launcher {launcher}: {name}: expected a whole number, got {text!r}")
    return int(text)


def leave_group(runner, launcher):
    """Leave the process group: one that outlives the interpreter may abort it, and the model's wrapper holds one."""
    if launcher != "none":
        runner.model = runner.model.module
        gc.collect()
        processes.leave()
