"""What a run records of each step, without waiting for the device."""

from pathlib import Path

from mmengine.fileio import dump
from mmengine.hooks import LoggerHook as _LoggerHook
from mmengine.hooks import RuntimeInfoHook

from cmems.files import whole_file
from cmems.registry import HOOKS


@HOOKS.register_module()
class LoggerHook(_LoggerHook):
    """MMEngine's, whose file of a test's figures is whole or not there."""

    def after_test_epoch(self, runner, metrics=None):
        """Log and write the figures."""
        batches = len(runner.test_dataloader)
        tag, text = runner.log_processor.get_log_after_epoch(runner, batches, "test", with_non_scalar=True)
        runner.logger.info(text)
        with whole_file(Path(runner.log_dir, self.json_log_path)) as part:
            dump(self._process_tags(tag), part, file_format="json")


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
