"""What the number of unlabelled slices costs: rate of a step and resident memory, from 10^3 to 10^6 slices.

The pools are sparse files, so that 10^6 slices (100 GB) need no disk; the slices read are zeros, read like any others.
"""

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable
from step import Step

import cmems.models
from cmems.apis import load_config
from cmems.datasets.store import SliceStore
from cmems.precision import computes_bfloat16
from cmems.seeding import Draws


def main():
    """Time steps and batches over pools of every size, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/cmems/unet_acdc.py")
    parser.add_argument("--sizes", nargs="+", type=int, default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=200, help="batches alone, per pool")
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    config = load_config(args.config)
    step = Step(config, computes_bfloat16("cuda" if torch.cuda.is_available() else "cpu"))
    side = step.data.prepared.size
    with tempfile.TemporaryDirectory(dir=".") as folder:
        pools = {"resident": step.data.store}
        for size in args.sizes:
            path = Path(folder, f"{size}.npy")
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(size, side, side))
            pools[size] = SliceStore(np.load(path, mmap_mode="r"), step.device, limit=0)
        times, batches, memory = ({name: [] for name in pools} for _ in range(3))
        for turn in range(args.rounds + 1):
            for name, pool in pools.items():
                step.data.store = pool
                began = step.clock()
                step()
                if turn:  # the first round warms up
                    times[name].append(step.clock() - began)
        for name, pool in pools.items():
            step.data.store = pool
            for k in range(args.batches):
                began = step.clock()
                step.data(Draws(0, k, 0, step.device))
                batches[name].append(step.clock() - began)
            memory[name] = resident()
    table = PrettyTable(["slices", "GB", "ms a batch", "s a step", "rate against resident", "resident memory, MB"])
    for name, seconds in times.items():
        rate = statistics.median(a / b for a, b in zip(times["resident"], seconds, strict=True))
        gigabytes = len(pools[name]) * side * side * 2 / 1e9
        table.add_row([f"{len(pools[name])} {'' if name != 'resident' else '(on the device)'}", f"{gigabytes:.2f}",
                       f"{1000 * statistics.median(batches[name]):.1f}", f"{statistics.median(seconds):.3f}",
                       f"{rate:.3f}", f"{memory[name] / 1e6:.0f}"])  # fmt: skip
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {step.device}, {platform.machine()}"
    print(f"{args.config}, {side}x{side}; {machine}; memory after {args.batches} batches from each pool in turn")
    print(table)
    if args.out:
        names = [str(n) for n in pools]
        found = (dict(zip(names, d.values(), strict=True)) for d in (times, batches, memory))
        Path(args.out).write_text(json.dumps(dict(zip(("steps", "batches", "memory"), found, strict=True)), indent=1))


def resident():
    """Return this process's resident memory in bytes (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


if __name__ == "__main__":
    assert cmems.models  # registers what the config names
    main()
