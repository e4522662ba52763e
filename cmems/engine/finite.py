"""Stopping a training whose numbers are numbers no more."""

import json
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

from cmems.engine.checkpoint import LAST
from cmems.engine.restore import not_finite
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.seeding import Draws

REPORT = "not_finite.json"


def batches_of(runner):
    """Return the steps whose gradients a run accumulates."""
    return getattr(runner.optim_wrapper, "_accumulative_counts", 1)


def draws_of(runner, step, rank, device):
    """Return the :class:`cmems.seeding.Draws` of a run's step in process ``rank``."""
    return Draws(runner.seed, step, rank, device, runner.world_size, batches_of(runner))


class FiniteGuard:
    """Looks at every step's losses, and at the weights before they are kept, without waiting for a GPU at each step.

    Args:
        runner (Runner): Model and seed.
        data (TrainData): What the batches were drawn from.
        interval (int): Steps between looks on a GPU; on a CPU every step is looked at.
    """

    def __init__(self, runner, data, interval=10):
        self.runner, self.data = runner, data
        self.interval = interval if data.store.device.type == "cuda" else 1
        self._seen, self._last = [], 0

    def note(self, step, outputs):
        """Keep the losses of ``step`` (int); look at those kept where a look is due.

        Raises:
            InputError: A loss is not finite; it names the step, the terms and the cases.
        """
        self._last = step
        losses = {k: v.detach().float().reshape(()) for k, v in outputs.items() if k.startswith("loss")}
        if losses:
            self._seen.append((step, list(losses), torch.stack(list(losses.values()))))
        if len(self._seen) >= self.interval:
            self._check_losses()

    def check(self):
        """Look at the losses that were kept, and at the weights.

        Raises:
            InputError: Some are not finite.
        """
        self._check_losses()
        model = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        broken = not_finite(model.state_dict())
        if broken:
            # The last step left them so, or one shortly before it: every loss was finite.
            self._stop(self._last, {}, f"{len(broken)} weights are not finite (first {broken[0]})")

    def _check_losses(self):
        seen, self._seen = self._seen, []
        if not seen:
            return
        values = torch.cat([values for _, _, values in seen]).cpu()
        if values.isfinite().all():
            return
        for (step, names, _), row in zip(seen, values.split([len(names) for _, names, _ in seen]), strict=True):
            losses = dict(zip(names, row.tolist(), strict=True))
            broken = [k for k, finite in zip(names, row.isfinite().tolist(), strict=True) if not finite]
            if broken:
                terms = [k for k in broken if k != "loss"] or broken  # the sum is NaN with its parts
                self._stop(step, losses, ", ".join(f"{k} is {losses[k]}" for k in terms))

    def _stop(self, step, losses, what):
        runner = self.runner
        cases = {}
        for rank in range(runner.world_size):
            for source, names in self.data.cases(draws_of(runner, step, rank, self.data.device)).items():
                cases.setdefault(source, []).extend(names)
        report = dict(
            what=what, step=step, losses={k: repr(v) for k, v in losses.items()}, cases=cases, seed=runner.seed,
            rank=runner.rank, processes=runner.world_size, config=runner.cfg.filename, settings=runner.settings,
            replay=f"train with --resume and train_cfg.max_iters={step + 1}",
        )  # fmt: skip
        path = Path(runner.work_dir, REPORT)
        if is_main_process():
            with whole_file(path) as part:
                part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        drawn = "; ".join(
            f"{source}: {', '.join(names[:6])}{' …' * (len(names) > 6)}" for source, names in cases.items() if names
        )
        kept = f"{LAST} is that of before" if Path(runner.work_dir, LAST).is_file() else "no checkpoint was written yet"
        raise InputError(
            f"training stopped at step {step}: {what} ({drawn or 'no cases known'}); {kept}, {path} replays the step; "
            "a lower optim_wrapper.optimizer.lr, or optim_wrapper.clip_grad, may keep it finite"
        )
