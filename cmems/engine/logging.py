"""What a run records of each step, without waiting for the device."""

from mmengine.hooks import RuntimeInfoHook

from cmems.registry import HOOKS


@HOOKS.register_module()
class TrainLogHook(RuntimeInfoHook):
    """Records losses and monitors every ``interval`` steps: losses as their mean since the last record.

    MMEngine's RuntimeInfoHook reads every loss at every step, and each reading waits for the device.

    Args:
        interval (int): Steps between records; the LoggerHook's.
    """

    def __init__(self, interval=10):
        self.interval = interval
        self._sums, self._counts = {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Ask the model for its monitors where a record is due."""
        super().before_train_iter(runner, batch_idx, data_batch)
        if self._due(runner):
            data_batch["monitor"] = ("background", *runner.train_loop.data.prepared.classes)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Add up on the device; read where a record is due."""
        for key, value in (outputs or {}).items():
            self._sums[key] = self._sums.get(key, 0) + value.detach()
            self._counts[key] = self._counts.get(key, 0) + 1
        if self._due(runner):
            for key, total in self._sums.items():
                runner.message_hub.update_scalar(f"train/{key}", float(total) / self._counts[key])
            self._sums, self._counts = {}, {}

    def _due(self, runner):
        return (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters
