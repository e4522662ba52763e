"""Population statistics for BatchNorm at prediction."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

from cmems.errors import InputError
from cmems.registry import HOOKS


@HOOKS.register_module()
class PreciseNormHook(Hook):
    """Sets BatchNorm's running statistics to those of unlabelled slices as they are.

    It acts before every validation, and at the end of a training that has none.

    In training the running average mixes pasted, jittered and feature-perturbed views of small batches, none of which
    prediction meets (precise BatchNorm: Wu & Johnson, *Rethinking "Batch" in BatchNorm*, 2021). Training itself
    normalises by the batch and does not notice; but with ``pseudo_label_mode="eval"`` its pseudo-labels are made with
    these statistics, so that how often it is validated changes them. A method without unlabelled images keeps its
    running average.

    Args:
        slices (int): Unlabelled training slices to average over, evenly spaced.
        batch_size (int): Most slices per forward.
    """

    def __init__(self, slices=256, batch_size=32):
        for name, value in (("slices", slices), ("batch_size", batch_size)):
            if type(value) is not int or value < 1:
                raise InputError(f"PreciseNormHook: {name}: expected a positive integer, got {value!r}")
        self.slices, self.batch_size = slices, batch_size

    def before_val_epoch(self, runner):
        """Measure the statistics that the validation, and the checkpoints after it, will have."""
        self._measure(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Measure the statistics that a static teacher, copied at this step, will predict with."""
        if _bare(runner.model).static_from == runner.iter:
            self._measure(runner)
            runner.model.train()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Measure the statistics of the last checkpoint where no validation comes before it."""
        if runner.val_loop is None and runner.iter + 1 == runner.max_iters:
            self._measure(runner)

    def after_train_epoch(self, runner):
        """Measure those of a training that a hook ended before its last step."""
        if runner.val_loop is None and runner.iter < runner.max_iters:
            self._measure(runner)

    def _measure(self, runner):
        data = getattr(runner.train_loop, "data", None)
        if data is not None:
            measure_norms(_bare(runner.model), data, self.slices, self.batch_size)


@torch.no_grad()
def measure_norms(model, data, slices=256, batch_size=32):
    """Set the statistics of a learner's networks, and leave it in evaluation mode; see :class:`PreciseNormHook`.

    Args:
        model (MutualLearner): Whose networks, and the averages of their weights where those predict.
        data (TrainData): Whose unlabelled slices; without a source of them nothing is done.
        slices, batch_size (int): See :class:`PreciseNormHook`.
    """
    if not any(getattr(source, "serves_scans", False) for source in data.sources.values()):
        return
    rows = torch.linspace(0, len(data.store) - 1, min(slices, len(data.store))).round().long()
    model.eval()
    # The networks always: a static teacher, or the next step's average, is copied from them.
    for networks in dict.fromkeys([model.networks, model.predictors]):
        norms = [m for m in networks.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's sign for a plain average
            norm.train()
        # Batches count alike, so they are alike; each view in turn: all of them for one's time.
        for number, part in enumerate(rows.tensor_split(-(-len(rows) // batch_size))):
            model.prediction.in_one_view(networks, data.store[part], number)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _bare(model):
    return model.module if is_model_wrapper(model) else model
