"""The train loop that every method runs in (Algorithm 1)."""

from contextlib import contextmanager

from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop

from cmems import processes
from cmems.datasets.sources import TrainData
from cmems.engine.finite import FiniteGuard, batches_of, draws_of
from cmems.engine.graph import StepGraph, why_not
from cmems.engine.signals import StopSignals
from cmems.errors import InputError, Stopped
from cmems.registry import LOOPS


def check_lengths(max_iters, val_interval):
    """Raise InputError for a ``train_cfg`` whose steps, or steps between validations, are no positive integers."""
    for key, value in (("max_iters", max_iters), ("val_interval", val_interval)):
        if type(value) is not int or value < 1:
            raise InputError(f"train_cfg.{key}: expected a positive integer, got {value!r}")


def _checked_validations(val_begin, dynamic_intervals):
    """Return ``dynamic_intervals`` as MMEngine takes them; raises InputError where either is not of its kind."""
    if type(val_begin) is not int or val_begin < 0:
        raise InputError(f"train_cfg.val_begin: expected an integer of 0 or more, got {val_begin!r}")
    if dynamic_intervals is None:
        return None
    pairs = dynamic_intervals if isinstance(dynamic_intervals, (list, tuple)) else [None]
    fits = all(isinstance(p, (list, tuple)) and len(p) == 2 and type(p[0]) is type(p[1]) is int for p in pairs)
    if not fits or any(step < 0 or interval < 1 for step, interval in pairs) or list(pairs) != sorted(pairs):
        raise InputError(
            "train_cfg.dynamic_intervals: expected (first step, steps between validations) pairs, the earliest first, "
            f"got {dynamic_intervals!r}"
        )
    return [tuple(pair) for pair in pairs]


def open_data(model, dataloader):
    """Open what a model's objectives read of a ``train_dataloader``, on the model's device; refuse what does not fit.

    Args:
        model (nn.Module): The learner.
        dataloader (dict): ``train_dataloader``.

    Returns:
        TrainData: Its other sources stay closed.

    Raises:
        InputError: Data, exemplar, networks and objectives do not fit together.
    """
    wanted = {source for objective in model.objectives for source in objective.sources}
    data = TrainData(device=next(model.parameters()).device, wanted=wanted, **dataloader)
    sources = {**dict.fromkeys(data.names), **data.sources}  # closed ones too, which messages name
    if problems := model.check(sources, data.prepared.size, data.prepared.classes):
        raise InputError(problems)
    return data


class _Interrupted(Exception):
    """A signal came between the volumes of a validation."""


@LOOPS.register_module()
class MutualLearningLoop(IterBasedTrainLoop):
    """Draws a batch from every source, takes one optimiser step, validates now and then.

    Batches are made on the device, by this process, from (seed, step, rank) alone; a resumed run therefore goes on with
    the batch of its step, without replaying earlier ones. Several processes, or several steps whose gradients are
    accumulated, draw together what one step of so many times the batch size draws.

    Args:
        runner (Runner): MMEngine's runner.
        dataloader (dict): ``train_dataloader``: ``data_root``, ``exemplar_slice`` and the sources by name.
        max_iters (int): Steps.
        val_begin (int): First step that may validate.
        val_interval (int): Steps between validations; the last step always validates.
        dynamic_intervals (list[tuple[int, int]] | None): As in MMEngine.
        graph (bool): On a GPU, capture the whole step in a CUDA graph; where that cannot be, the log says why.

    Raises:
        InputError: Data, exemplar or objectives do not fit together; before the first step.
    """

    def __init__(
        self, runner, dataloader, max_iters, val_begin=1, val_interval=1000, dynamic_intervals=None, graph=True
    ):
        check_lengths(max_iters, val_interval)
        dynamic_intervals = _checked_validations(val_begin, dynamic_intervals)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.data = open_data(model, dataloader)
        super().__init__(runner, _Batches(self), max_iters, val_begin, val_interval, dynamic_intervals)
        self.graph, self._graphed = graph, None
        self.guard, self._signals, self._validated = FiniteGuard(runner, self.data), StopSignals(), True

    def batch(self, step):
        """Return what the model's ``forward`` takes at ``step``."""
        draws = draws_of(self.runner, step, self.runner.rank, self.data.device)
        return dict(batch=self.data(draws), draws=draws)

    def go_on(self, step, validated=True):
        """Start at ``step``, whose validation, if one is due, is ``validated`` already or comes first."""
        self._iter, self._validated = step, validated
        self._decide_current_val_interval()

    def run(self):
        """Train to ``max_iters`` and return the model.

        Raises:
            InputError: A loss or a weight is not finite; the checkpoints are those of before.
            Stopped: A signal asked for it; ``last.pth`` holds the steps that were made.
        """
        runner = self.runner
        self._graphed = self._make_graph() if self.graph else None
        with self._signals, self._together():
            try:
                runner.call_hook("before_train")
            except AssertionError as error:  # by which MMEngine's hooks refuse settings
                raise InputError(f"custom_hooks: {error}") from error
            runner.call_hook("before_train_epoch")
            if not self._validated and self.validation_due(self._iter):
                self._validate()
            while self._iter < self._max_iters and not (self.stop_training and self._iter % batches_of(runner) == 0):
                runner.model.train()
                self.run_iter({} if self._graphed else self.batch(self._iter))
                self._decide_current_val_interval()
                self.stop_if_asked()
                if self.validation_due(self._iter):
                    self._validate()
                elif self.stop_training and runner.val_loop is not None and self._iter % batches_of(runner) == 0:
                    self._validate()  # as the last step of any training
            runner.call_hook("after_train_epoch")
            if runner.val_loop is None and self._iter < self._max_iters:
                self.guard.check()
                runner.save_last(self._iter)
            runner.call_hook("after_train")
        return runner.model

    def run_iter(self, data_batch):
        """Make one step: of ``data_batch``, or captured, with what hooks put into ``data_batch``."""
        hook = dict(batch_idx=self._iter, data_batch=data_batch)
        self.runner.call_hook("before_train_iter", **hook)
        if self._graphed:
            outputs = self._graphed(self._iter, **data_batch)
        else:
            outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.start_over()
        outputs = processes.mean(outputs)
        self.guard.note(self._iter, outputs)
        self.runner.call_hook("after_train_iter", outputs=outputs, **hook)
        self._iter += 1

    def stop_if_asked(self, validating=False):
        """End the training where a signal came, between steps or between the volumes of a validation.

        Several processes end between steps alone, and on GPUs between every tenth, since they must agree. Where
        gradients are accumulated, it waits for the step that uses them.

        Args:
            validating (bool): It is asked between volumes, and ends the validation first.

        Raises:
            Stopped: After ``last.pth`` was written.
        """
        signum = self._signals.received
        if self._iter % batches_of(self.runner):
            return
        if self.runner.world_size > 1:
            if validating or self._iter % self.guard.interval:
                return
            signum = processes.highest(signum or 0) or None
        if signum is None:
            return
        if validating:
            raise _Interrupted  # hooks may have put other weights there to be measured, averaged ones
        self.runner.save_last(self._iter, validated=not self.validation_due(self._iter))
        raise Stopped(signum, f"stopped after step {self._iter}; --resume goes on from {self.runner.work_dir}")

    @contextmanager
    def _together(self):
        try:
            yield
        except RuntimeError as error:
            if processes.lost(error):
                self._signals.ignore()  # a launcher ends at once those that are left
            raise
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                "BatchNorm: a batch of one image whose features shrink to one pixel has no spread to normalise by; "
                f"expected batch_size of 2 or more in train_dataloader, or larger slices ({error})"
            ) from error

    def _validate(self):
        self.guard.check()
        try:
            self.runner.val_loop.run()
        except _Interrupted:
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(self.runner)  # puts the weights back
            self.stop_if_asked()

    def _make_graph(self):
        reason = why_not(self.runner, self.data)
        if reason is None:
            return StepGraph(self.runner, self.data)
        self.runner.logger.info(f"no CUDA graph of the step: {reason}")
        return None

    def validation_due(self, steps_done):
        """Tell whether a validation follows once ``steps_done`` steps are done."""
        last = steps_done == self._max_iters
        due = last or (steps_done >= self.val_begin and self.passed(steps_done, self.val_interval))
        return due and self.runner.val_loop is not None

    def passed(self, steps_done, interval):
        """Tell whether ``interval`` steps came round: where gradients are accumulated, once they are used."""
        batches = batches_of(self.runner)
        return steps_done % batches == 0 and steps_done // interval > (steps_done - batches) // interval


class _Batches:
    """The face of a data loader that MMEngine's base loop and hooks expect."""

    def __init__(self, loop):
        self._loop, self.dataset = loop, loop.data

    def __iter__(self):
        return self

    def __next__(self):
        return self._loop.batch(self._loop.iter)

    def __len__(self):
        return len(self.dataset.store)
