"""End a short training at random moments, resume it, and compare the bits: python tests/fuzz/stops.py --times 100.

Every moment is of one training process, forked where everything is imported; each run is ended and resumed until it
has made all its steps.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

from cmems.engine.checkpoint import read_checkpoint
from tools import build, tool

SIGNALS = ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
WORDS = ("train", "long.py", "--resume", "--work-dir")
LONG = "train_cfg = dict(max_iters=12)\ndefault_hooks = dict(checkpoint=dict(interval=2))\n"


def start(base, folder):
    """Start the training in a process of its own; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(base)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        code, _ = tool(*WORDS, folder)
    except KeyboardInterrupt:  # before or after the command's own guard
        code = 130
    finally:
        os._exit(code)


def ended(child):
    """Wait for a process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    """Run and print the table; exit 1 where bits differ or something did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="moments of each signal")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many, with what there is")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        sys.exit(_run(args, Path(folder)))


def _run(args, base):
    child = os.fork()
    if not child:
        try:
            build(base)
            (base / "long.py").write_text((base / "tiny.py").read_text() + LONG)
        finally:
            os._exit(0 if (base / "long.py").is_file() else 70)
    assert ended(child) == 0
    began = time.monotonic()
    assert ended(start(base, "whole")) == 0
    seconds = time.monotonic() - began
    whole = read_checkpoint(base / "whole" / "last.pth")["state_dict"]
    r, until, found = np.random.default_rng(args.seed), time.monotonic() + 60 * args.minutes, {}
    while any(found.get(name, Counter())["moments"] < args.times for name in args.signals):
        for name in args.signals:
            if found.setdefault(name, Counter())["moments"] < args.times and time.monotonic() < until:
                found[name].update(_one(base, getattr(signal, name), r, seconds, whole))
        if time.monotonic() > until:
            break
    columns = ("moments", "runs", "equal", "torn", "lost", "odd exit")
    table = PrettyTable(["signal", *columns], align="r")
    for name, counts in found.items():
        table.add_row([name, *(counts[c] for c in columns)])
    print(table)
    return int(any(c["torn"] + c["lost"] + c["odd exit"] or c["equal"] != c["runs"] for c in found.values()))


def _one(base, signum, r, seconds, whole):
    """End one run at random moments until it is done; return what was seen."""
    folder, seen, kept = base / "run", Counter(runs=1), 0
    shutil.rmtree(folder, ignore_errors=True)
    while True:
        child = start(base, "run")
        time.sleep(float(r.uniform(0, seconds)))
        os.kill(child, signum)
        code = ended(child)
        seen["moments"] += 1
        if code not in (0, -signum, 128 + signum):
            print(f"{signal.Signals(signum).name}: exit code {code}", file=sys.stderr)
            seen["odd exit"] += 1
        for path in folder.glob("*.pth"):
            try:
                read_checkpoint(path)
            except Exception as error:
                print(error, file=sys.stderr)
                seen["torn"] += 1
        steps = _steps(folder)
        seen["lost"] += steps < kept
        kept = steps
        if code == 0:
            ours = torch.load(folder / "last.pth", weights_only=True)["state_dict"]
            seen["equal"] += ours.keys() == whole.keys() and all(torch.equal(ours[k], whole[k]) for k in whole)
            return seen


def _steps(folder):
    """Return the steps of the newest whole checkpoint."""
    found = [folder / name for name in ("last.pth", "previous.pth") if (folder / name).is_file()]
    return max((read_checkpoint(path)["meta"]["iter"] for path in found), default=0)


if __name__ == "__main__":
    main()
