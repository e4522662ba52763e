"""What a run did, and on what: versions, device, data, seed and time, beside its checkpoints."""

import json
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import cmems
from cmems import ops
from cmems.engine.runner import RECORD
from cmems.files import whole_file
from cmems.precision import computes_bfloat16

# What is read back of run.json.
_TEXTS = ("config", "config_copy", "started", "device", "cmems", "commit")
_NUMBERS = ("seconds", "steps", "of", "seed")
_LIBRARIES = ("torch", "mmengine", "mmcv", "mmcv-lite", "numpy", "scipy", "nibabel", "h5py")


def environment():
    """Return versions and device, as plain values."""
    device = device_name()
    return dict(
        _code(),
        system=platform.platform(),
        device=device,
        bfloat16=computes_bfloat16("cuda" if torch.cuda.is_available() else "cpu"),
        threads=torch.get_num_threads(),
        compiled_kernels="not used" if torch.cuda.is_available() else ops.why_not() or "on",
        installed_in=str(Path(cmems.__file__).parent),
    )


@cache
def _code():
    found = dict(cmems=cmems.__version__, commit=commit(), python=platform.python_version())
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(kind=None):
    """Name the device that trains and predicts, or that of a kind: ``cuda``, ``mps`` or ``cpu``."""
    kind = kind or ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    if kind == "cuda":
        return f"cuda, {torch.cuda.get_device_name()}"
    if kind == "mps":
        return "mps, Apple's GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"cpu, {platform.processor() or platform.machine()}, {cores} cores"


def commit():
    """Return the commit of the code, with ``+`` where files differ from it; None where git does not keep it."""
    git = ["git", "-C", str(Path(cmems.__file__).parent)]
    try:
        found = []
        for words in (("ls-files", "--error-unmatch", "__init__.py"), ("rev-parse", "--short", "HEAD"),
                      ("status", "--porcelain", "-uno")):  # fmt: skip
            done = subprocess.run([*git, *words], capture_output=True, text=True, check=True)
            found.append(done.stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[1] + "+" * bool(found[2])


def read_record(folder):
    """Return what a run's folder says of it, empty where it says nothing; fields that no training writes so are out."""
    try:
        found = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in found.items() if _is_known(key, value)} if isinstance(found, dict) else {}


def _is_known(key, value):
    """Tell whether a field of ``run.json`` is of its kind; of those that nothing reads back any is."""
    if key in _TEXTS:
        return isinstance(value, str) or (key == "commit" and value is None)
    if key in _NUMBERS:
        return type(value) in (int, float) and 0 <= value < 1 << 53
    if key == "modules":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, {"finished": bool, "data": dict}.get(key, object))


def write_record(folder, began, finished, goes_on, **facts):
    """Write ``run.json``, what a run did, beside its checkpoints.

    Args:
        folder (str | Path): The work directory.
        began (float): ``time.time()`` at its start.
        finished (bool): Whether all its steps are made.
        goes_on (bool): Add the time that is recorded there already.
        **facts: Plain values, beside :func:`environment`, ``started``, ``seconds`` and ``finished``.
    """
    before = read_record(folder) if goes_on else {}
    started = datetime.fromtimestamp(began, timezone.utc).isoformat(timespec="seconds")
    seconds = round(before.get("seconds", 0) + time.time() - began, 1)
    facts.update(started=before.get("started", started), seconds=seconds, finished=finished)
    with whole_file(Path(folder, RECORD)) as part:
        part.write_text(json.dumps(dict(facts, **environment()), indent=1, default=str) + "\n")
