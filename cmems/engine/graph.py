"""A whole training step, sampling and optimiser included, as one CUDA graph."""

from itertools import chain

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper

from cmems.engine.precision import AutocastOptimWrapper
from cmems.errors import InputError
from cmems.seeding import Draws, derive_key


def why_not(runner, data):
    """Return what keeps this run's step from being captured, or None."""
    wrapper = runner.optim_wrapper
    if data.store.device.type != "cuda":
        return "there is no CUDA device"
    if is_model_wrapper(runner.model):
        return "several processes train together"
    if not data.store.resident:
        return "the slices do not fit on the device"
    if type(wrapper) not in (OptimWrapper, AutocastOptimWrapper):
        return f"{type(wrapper).__name__} may read the device"
    if wrapper.clip_grad_kwargs or wrapper._accumulative_counts != 1:
        return "gradients are clipped or accumulated"
    schedules = getattr(runner, "param_schedulers", None) or []
    for each in chain(*schedules.values()) if isinstance(schedules, dict) else schedules:
        if each.param_name != "lr":
            return f"a schedule of {each.param_name} is no tensor"
    if any("capturable" not in group for group in wrapper.optimizer.param_groups):
        return f"{type(wrapper.optimizer).__name__} is not capturable"
    return None


class StepGraph:
    """Steps that read their index and learning rates from the device: the first few run, then one is captured.

    Where terms begin or end, the next is captured anew: what has no part in a step must get no gradient, not one of 0,
    by which an optimiser would still decay its weights.

    A captured step is replayed with one launch. Everything random in it is a function of (seed, step): the draws
    because the step index is a tensor that they read, dropout because the generator is seeded before each step. A
    resumed run therefore goes on with the same bits, whether the step in question is replayed or run.

    Args:
        runner (Runner): Model and optimiser.
        data (TrainData): Where batches come from.
    """

    warm_up = 3  # steps to run before capturing: libraries allocate and choose their kernels in them

    def __init__(self, runner, data):
        self.runner, self.data, self.device = runner, data, data.store.device
        self.index = torch.zeros((), dtype=torch.int64, device=self.device)
        self.groups = runner.optim_wrapper.optimizer.param_groups
        self.rates = [torch.zeros((), device=self.device) for _ in self.groups]
        self._runs, self._graphs = {}, {}
        if self.device.type == "cuda":
            for group in self.groups:
                group["capturable"] = True
            for weight, state in runner.optim_wrapper.optimizer.state.items():  # of a run that goes on
                if torch.is_tensor(state.get("step")):
                    state["step"] = state["step"].to(weight.device)

    def __call__(self, step, monitor=()):
        """Make step ``step`` (int) and return its losses, and its monitors where class names are given."""
        self.index.fill_(step)
        for group, rate in zip(self.groups, self.rates, strict=True):
            rate.fill_(group["lr"])
        if self.device.type != "cuda":
            self._seed(step)
            return self._run(step, monitor)
        kind = (tuple(monitor), tuple(objective.idle(step) for objective in self.runner.model.objectives))
        self._runs[kind] = self._runs.get(kind, 0) + 1
        if self._runs[kind] <= self.warm_up:
            self._seed(step)
            return self._aside(step, monitor)
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(step, monitor)
        graph, outputs = self._graphs[kind]
        self._seed(step)
        graph.replay()
        return outputs

    def _seed(self, step):
        torch.manual_seed(derive_key(self.runner.seed, self.runner.rank, "dropout", step) % (1 << 63))

    def _aside(self, step, monitor):
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            outputs = self._run(step, monitor)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return outputs

    def _capture(self, step, monitor):
        graph = torch.cuda.CUDAGraph()
        pool = next((g.pool() for g, _ in self._graphs.values()), None)
        try:
            with torch.cuda.graph(graph, pool=pool):
                outputs = self._run(step, monitor)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"train_cfg.graph: a component of this config keeps its step from being captured in a CUDA graph "
                f"({reason}); train with --cfg-options train_cfg.graph=False"
            ) from error
        return graph, outputs

    def _run(self, step, monitor):
        draws = Draws(self.runner.seed, self.index, self.runner.rank, self.device, number=step)
        batch = dict(batch=self.data(draws), draws=draws, monitor=monitor)
        # Schedulers set plain numbers, which a capture would freeze: the optimiser reads them from the device instead.
        numbers = [group["lr"] for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate
        try:
            return self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        finally:
            for group, number in zip(self.groups, numbers, strict=True):
                group["lr"] = number
