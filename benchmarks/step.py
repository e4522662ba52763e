"""What a config's step costs, phase by phase, beside the plain loop that makes the same forwards and beside the floor.

The floor is what the step's convolutions need at least: their floating-point operations at the rate of a large matrix
product, or the bytes of their operands at the rate of a large copy, whichever takes longer, both measured here.
"""

import argparse
import json
import platform
import resource
import statistics
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from elsewhere import Elsewhere
from peer_step import PeerStep
from prettytable import PrettyTable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import cmems.models
from cmems import ops
from cmems.apis import load_config
from cmems.apis.config import count_steps
from cmems.datasets.sources import TrainData
from cmems.engine.graph import StepGraph
from cmems.engine.memory import keep_freed_memory
from cmems.engine.precision import AutocastOptimWrapper
from cmems.precision import computes_bfloat16
from cmems.registry import MODELS
from cmems.seeding import Draws

PHASES = ("data", "synthesis", "perturbation", "forward and losses", "backward", "optimiser", "logging")
WARM_UP = 2 if not torch.cuda.is_available() else StepGraph.warm_up + 1  # rounds, not timed
WORK = ("forward and losses", "backward", "optimiser")


class Step:
    """The product's step without the runner.

    Args:
        config (Config): What to train.
        bfloat16 (bool): Autocast.
        channels_last (bool): Memory format of images and weights.
        batch_views (bool): Views of one network in one batch.
        kernels (bool): Use the compiled kernels.
    """

    def __init__(self, config, bfloat16, channels_last=True, batch_views=True, kernels=True):
        self.kernels = kernels
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = (
            MODELS.build(dict(config.model, channels_last=channels_last, batch_views=batch_views))
            .to(self.device)
            .train()
        )
        wanted = {s for o in self.model.objectives for s in o.sources}
        self.data = TrainData(device=self.device, wanted=wanted, **config.train_dataloader)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-4, weight_decay=1e-4, fused=True)
        self.bfloat16, self.step, self.phases, self._now = bfloat16, 0, [], {}
        self._watch(self.model, "weak", "perturbation", "apply")
        self._watch(self.model, "strong", "perturbation", "__call__")
        self._watch(self.model, "feature", "perturbation", "__call__")
        for source in self.data.sources.values():
            if hasattr(source, "synthesizer"):
                self._watch(source, "synthesizer", "synthesis", "__call__")

    def _watch(self, owner, name, phase, method):
        if getattr(owner, name, None) is not None:
            setattr(owner, name, _Watched(getattr(owner, name), method, lambda: self._phase(phase)))

    @contextmanager
    def _phase(self, name):
        """Add the seconds of a block to a phase, less those of the phases inside it."""
        began, inside = self.clock(), sum(self._now.values())
        yield
        spent = self.clock() - began - (sum(self._now.values()) - inside)
        self._now[name] = self._now.get(name, 0.0) + spent

    def __call__(self):
        """Make one step."""
        ops.enable(self.kernels)
        self._now = {}
        draws = Draws(0, self.step, 0, self.device)
        with self._phase("data"):
            batch = self.data(draws)
        with self._phase("forward and losses"), torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            losses = self.model(batch=batch, draws=draws)
            total = sum(losses.values())
        with self._phase("backward"):
            total.backward()
        with self._phase("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        with self._phase("logging"):
            if self.step % 10 == 9:  # as TrainLogHook does
                [float(loss.detach()) for loss in losses.values()]
        self.phases.append(self._now)
        self.step += 1

    def clock(self):
        """Return the time once the device is idle."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class GraphStep:
    """The same step captured in a CUDA graph, as MutualLearningLoop replays it."""

    def __init__(self, config):
        self.eager = Step(config, True)
        wrapper = AutocastOptimWrapper(optimizer=self.eager.optimizer)
        runner = SimpleNamespace(seed=0, rank=0, model=self.eager.model, optim_wrapper=wrapper)
        self.graph, self.step = StepGraph(runner, self.eager.data), 0

    def __call__(self):
        """Make one step."""
        self.graph(self.step)
        self.step += 1


class _Watched:
    """A component whose one method is timed."""

    def __init__(self, component, method, phase):
        self._component, self._method, self._phase = component, method, phase

    def __getattr__(self, name):
        found = getattr(self._component, name)
        return self._timed(found) if name == self._method else found

    def __call__(self, *args, **kwargs):
        return self._timed(self._component)(*args, **kwargs)

    def _timed(self, function):
        def call(*args, **kwargs):
            with self._phase():
                return function(*args, **kwargs)

        return call


class _ConvolutionBytes(TorchDispatchMode):
    """Adds up the bytes of every tensor that a convolution or its backward reads or writes."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if "convolution" in str(function):
            tensors = [t for t in (*args, *(found if isinstance(found, tuple) else (found,))) if torch.is_tensor(t)]
            self.total += sum(t.numel() * t.element_size() for t in tensors)
        return found


def floor(step):
    """Return the FLOPs, the bytes, the measured rates and the seconds that a step needs at least."""
    with FlopCounterMode(display=False) as flops, _ConvolutionBytes() as moved:
        step()
    step.phases.pop()
    dtype = torch.bfloat16 if step.bfloat16 else torch.float32
    side = 8192 if step.device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=step.device, dtype=dtype) for _ in range(2))
    rate = 2 * side**3 / best(step.clock, lambda: a @ b)
    source = torch.zeros(1 << 28, dtype=torch.uint8, device=step.device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / best(step.clock, lambda: target.copy_(source))
    seconds = max(flops.get_total_flops() / rate, moved.total / bandwidth)
    return dict(
        flops=flops.get_total_flops(), bytes=moved.total, flops_per_s=rate, bytes_per_s=bandwidth, seconds=seconds
    )


def best(clock, work, rounds=5):
    """Return the shortest of several timings, in seconds."""
    times = []
    for _ in range(rounds):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)


def main():
    """Time the contenders in turns and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/cmems/unet_acdc.py")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender, taken in turns")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--only", metavar="STEP", help="one of our steps, as the table names it, beside the plain loop")
    parser.add_argument("--return-memory", action="store_true", help="leave freed memory to the C library")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    config = load_config(args.config, dict(o.split("=", 1) for o in args.cfg_options))
    count_steps(config)
    if not args.return_memory:
        keep_freed_memory()
    bfloat16 = computes_bfloat16("cuda" if torch.cuda.is_available() else "cpu")
    ways = {"CMEMS bfloat16": dict(bfloat16=True)} if bfloat16 else {}
    if bfloat16 and not torch.cuda.is_available():
        ways["CMEMS bfloat16, views in turn"] = dict(bfloat16=True, batch_views=False)
        ways["CMEMS bfloat16, no compiled kernels"] = dict(bfloat16=True, kernels=False)
    ways |= {"CMEMS float32": dict(bfloat16=False)}
    ways |= {"CMEMS float32, NCHW": dict(bfloat16=False, channels_last=False)}
    steps = {name: Step(config, **way) for name, way in ways.items() if args.only in (None, name)}
    if not steps:
        raise SystemExit(f"error: --only: expected one of {', '.join(ways)}; got {args.only}")
    captured = torch.cuda.is_available() and "CMEMS bfloat16" in steps
    graphs = {"CMEMS bfloat16, CUDA graph": GraphStep(config)} if captured else {}
    first = next(iter(steps.values()))
    data, clock = first.data, first.clock
    image, label = (t[0].cpu().numpy() for t in data.exemplars)
    batch = config.train_dataloader.unlabeled.batch_size
    slices = np.asarray(data.prepared.train_images())
    plain_step = Elsewhere(PeerStep, slices, image[0], label, data.prepared.num_classes, batch, args.workers)
    contenders = {**steps, **graphs, "plain loop float32": plain_step}
    times = {name: [] for name in contenders}
    for turn in range(args.rounds + WARM_UP):
        for name, step in contenders.items():
            began = clock()
            step()
            if turn >= WARM_UP:
                times[name].append(clock() - began)
    machine = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
        machine += f", {torch.cuda.get_device_name()}, peak memory of the device {peak:.1f} GiB"
    print(f"{args.config}: {3 * batch} images of {data.prepared.size}x{data.prepared.size} a step; {machine}")
    medians = {name: statistics.median(t) for name, t in times.items()}
    plain = times["plain loop float32"]
    table = PrettyTable(["step", "s", "images/s", "x plain loop"])
    for name, seconds in medians.items():
        ratio = statistics.median(p / t for p, t in zip(plain, times[name], strict=True))
        table.add_row([name, f"{seconds:.3f}", f"{3 * batch / seconds:.1f}", f"{ratio:.2f}"])
    print(table)
    floors = {name: floor(step) for name, step in steps.items()}
    for name in graphs:
        least = floors["CMEMS bfloat16"]["seconds"]
        print(f"{name}: {1 / medians[name]:.0f} steps/s, {medians[name] / least:.1f} times the floor")
    table = PrettyTable(["share of the step", *PHASES, "outside the work", "x floor"])
    for name, step in steps.items():
        spent = {p: sum(s.get(p, 0.0) for s in step.phases[WARM_UP:]) for p in PHASES}
        total = sum(spent.values())
        outside = 1 - sum(spent[p] for p in WORK) / total
        shares = [f"{spent[p] / total:.1%}" for p in PHASES]
        table.add_row([name, *shares, f"{outside:.1%}", f"{medians[name] / floors[name]['seconds']:.1f}"])
    print(table)
    for name, found in floors.items():
        print(
            f"{name}: {found['flops'] / 1e9:.0f} GFLOP and {found['bytes'] / 1e9:.1f} GB a step; measured "
            f"{found['flops_per_s'] / 1e9:.0f} GFLOP/s and {found['bytes_per_s'] / 1e9:.0f} GB/s; "
            f"floor {found['seconds']:.3f} s"
        )
    if args.out:
        report = dict(config=args.config, machine=machine, seconds=times, floors=floors)
        report["phases"] = {name: step.phases[WARM_UP:] for name, step in steps.items()}
        Path(args.out).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    assert cmems.models  # registers what the config names
    main()
