"""What a config's step costs, in float32 and bfloat16, beside the plain loop that makes the same forwards."""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from peer_step import PeerStep
from prettytable import PrettyTable

import cmems.models
from cmems.apis import load_config
from cmems.datasets.sources import TrainData
from cmems.engine.precision import computes_bfloat16
from cmems.registry import MODELS
from cmems.seeding import Draws


class Step:
    """The product's step without the runner.

    Args:
        config (Config): What to train.
        bfloat16 (bool): Autocast.
    """

    def __init__(self, config, bfloat16):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = MODELS.build(config.model).to(self.device).train()
        wanted = {o.source for o in self.model.objectives}
        self.data = TrainData(device=self.device, wanted=wanted, **config.train_dataloader)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-4, weight_decay=1e-4, fused=True)
        self.bfloat16, self.step = bfloat16, 0
        self.phases = {}

    def __call__(self):
        """Make one step, adding up the seconds of each phase."""
        draws = Draws(0, self.step, 0, self.device)
        t0 = self.clock()
        batch = self.data(draws)
        t1 = self.clock()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            total = sum(self.model(batch=batch, draws=draws).values())
        t2 = self.clock()
        total.backward()
        t3 = self.clock()
        self.optimizer.step()
        self.optimizer.zero_grad()
        t4 = self.clock()
        for name, seconds in (("data and synthesis", t1 - t0), ("views, forward, losses", t2 - t1),
                              ("backward", t3 - t2), ("optimiser", t4 - t3)):  # fmt: skip
            self.phases.setdefault(name, []).append(seconds)
        self.step += 1

    def clock(self):
        """Return the time once the device is idle."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def main():
    """Time the contenders in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/cmems/unet_acdc.py")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender, taken in turns")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    config = load_config(args.config, dict(o.split("=", 1) for o in args.cfg_options))
    steps = {"CMEMS float32": Step(config, False)}
    if computes_bfloat16("cuda" if torch.cuda.is_available() else "cpu"):
        steps["CMEMS bfloat16"] = Step(config, True)
    data = steps["CMEMS float32"].data
    image, label = (t.cpu().numpy() for t in data.exemplar)
    batch = config.train_dataloader.unlabeled.batch_size
    slices = np.asarray(data.prepared.train_images())
    steps["plain loop float32"] = PeerStep(slices, image[0], label, data.prepared.num_classes, batch, args.workers)
    times = {name: [] for name in steps}
    for turn in range(args.rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn > 1:  # the first two rounds warm up
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(t) for name, t in times.items()}
    plain = medians["plain loop float32"]
    table = PrettyTable(["step", "s", "images/s", "x plain loop"])
    for name, seconds in medians.items():
        table.add_row([name, f"{seconds:.2f}", f"{3 * batch / seconds:.1f}", f"{plain / seconds:.2f}"])
    machine = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"
    )
    print(f"{args.config}: {3 * batch} images of {data.prepared.size}x{data.prepared.size} a step; {machine}")
    print(table)
    for name, step in steps.items():
        if isinstance(step, Step):
            shares = {k: statistics.median(v[2:]) for k, v in step.phases.items()}
            print(name, ", ".join(f"{k} {v / sum(shares.values()):.1%}" for k, v in shares.items()))
    if args.out:
        Path(args.out).write_text(json.dumps(dict(config=args.config, machine=machine, seconds=times), indent=1))


if __name__ == "__main__":
    assert cmems.models  # registers what the config names
    main()
