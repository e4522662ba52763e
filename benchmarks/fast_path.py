"""What each part of the fast path changes: the loss curve beside another seed's, and the rate of steps.

The base is float32, NCHW, eager. Every variant trains the same config from the same seed; its distance from the base is
the mean absolute difference of the two curves of the total loss, each smoothed over ten records. The distance of the
base with another seed is the noise that a variant should stay within. All parts on, resuming is checked bit for bit.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

from cmems.apis import train

PARTS = ("model.channels_last", "model.batch_views", "train_cfg.graph", "env_cfg.compiled_kernels")
BASE = {**dict.fromkeys(PARTS, False), "optim_wrapper.type": "OptimWrapper"}
FAST = {**dict.fromkeys(PARTS, True), "optim_wrapper.type": "AutocastOptimWrapper"}
VARIANTS = {
    "base: float32, NCHW, eager": (0, BASE),
    "base, another seed": (1, BASE),
    "channels_last": (0, {**BASE, "model.channels_last": True}),
    "channels_last, compiled kernels": (0, {**BASE, "model.channels_last": True, "env_cfg.compiled_kernels": True}),
    "views in one batch": (0, {**BASE, "model.batch_views": True}),
    "bfloat16": (0, {**BASE, "optim_wrapper.type": "AutocastOptimWrapper"}),
    "optimiser unfused": (0, {**BASE, "optim_wrapper.optimizer.fused": False}),
    "CUDA graph": (0, {**BASE, "train_cfg.graph": True}),
    "torch.compile": (0, {**BASE, "model.compile": True}),
    "all but torch.compile (default)": (0, FAST),
}


def main():
    """Train every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/cmems/unet_phantom_cardiac.py")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--without", nargs="+", default=[], help="variants to leave out, by name")
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    options = {"train_cfg.max_iters": args.steps, "val_dataloader": None, "val_cfg": None, "val_evaluator": None}
    options.update({"default_hooks.runtime_info.interval": 1, "default_hooks.logger.interval": 1})
    curves, rates = {}, {}
    folder = Path(tempfile.mkdtemp(dir="."))
    try:
        for name, (seed, switches) in VARIANTS.items():
            if name in args.without or (name == "CUDA graph" and not torch.cuda.is_available()):
                continue
            work = folder / str(len(curves))
            began = time.perf_counter()
            train(args.config, str(work), seed=seed, cfg_options={**options, **switches})
            curves[name] = losses(work)
            rates[name] = args.steps / (time.perf_counter() - began)
        whole, halves = folder / "whole", folder / "halves"
        stop = args.steps // 2 + 1
        train(args.config, str(whole), cfg_options={**options, **FAST})
        train(args.config, str(halves), cfg_options={**options, **FAST, "train_cfg.max_iters": stop,
                                                     "param_scheduler.end": args.steps})  # fmt: skip
        train(args.config, str(halves), resume=True, cfg_options={**options, **FAST})
        first, second = (torch.load(d / "last.pth", weights_only=True)["state_dict"] for d in (whole, halves))
        equal = all(torch.equal(first[key], second[key]) for key in first)
    finally:
        shutil.rmtree(folder)
    base, other = curves["base: float32, NCHW, eager"], curves["base, another seed"]
    noise = distance(base, other)
    table = PrettyTable(
        ["variant", "distance of the loss curve", "of the seeds' distance", "steps/s, start-up included"]
    )
    for name, curve in curves.items():
        d = distance(base, curve)
        table.add_row([name, f"{d:.4f}", f"{d / noise:.2f}", f"{rates[name]:.2f}"])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"{args.config}, {args.steps} steps; torch {torch.__version__}, {device}")
    print(table)
    print(f"{args.steps} steps, and {stop} with the rest after a resume, all parts on: same bits: {equal}")
    if args.out:
        report = dict(steps=args.steps, device=device, curves=curves, rates=rates, resumes_exactly=equal)
        Path(args.out).write_text(json.dumps(report))


def losses(work):
    """Return the total loss of every step of a run."""
    (log,) = work.glob("*/vis_data/scalars.json")
    return [row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]


def distance(a, b):
    """Return the mean absolute difference of two curves, each smoothed over ten records."""
    window = np.ones(10) / 10
    a, b = (np.convolve(curve, window, mode="valid") for curve in (a, b))
    return float(np.abs(a - b).mean())


if __name__ == "__main__":
    main()
