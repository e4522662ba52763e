"""MMEngine's Runner with a quiet terminal and checkpoints that are data."""

import logging
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner

from cmems import ops
from cmems.engine.checkpoint import load_weights, read_checkpoint, replace_atomically
from cmems.engine.memory import keep_freed_memory
from cmems.registry import RUNNERS


def set_up_cpu(env_cfg):
    """Switch the compiled kernels, and keep freed memory, as a config's ``env_cfg`` says."""
    ops.enable(env_cfg.get("compiled_kernels", True))
    if env_cfg.get("keep_memory", True):
        keep_freed_memory()


@RUNNERS.register_module()
class SegmentationRunner(Runner):
    """A Runner whose log goes to the file, warnings alone to the terminal, and whose checkpoints load safely.

    ``env_cfg`` takes, besides MMEngine's keys, ``compiled_kernels`` (see :mod:`cmems.ops`) and ``keep_memory`` (see
    :func:`cmems.engine.memory.keep_freed_memory`); both are on unless they are False, and matter on CPUs alone.
    """

    def setup_env(self, env_cfg):
        """Set up what MMEngine does, the compiled kernels and the memory."""
        super().setup_env(env_cfg)
        set_up_cpu(env_cfg)

    def build_logger(self, log_level="INFO", log_file=None, **kwargs):
        """Build MMEngine's logger and keep everything below a warning off the terminal."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
                handler.addFilter(lambda record: "deprecated" not in record.getMessage())  # MMEngine's own calls
        return logger

    def wrap_model(self, model_wrapper_cfg, model):
        """Wrap the model for several processes; on CPUs too, where MMEngine would name a GPU.

        Where a term has its first or last step, parameters may be without a gradient before or after it.
        """
        if self.distributed and self.cfg.get("find_unused_parameters") is None:
            objectives = getattr(model, "objectives", ())
            self.cfg.find_unused_parameters = any(o.begin or o.end is not None for o in objectives)
        if not self.distributed or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        unused = self.cfg.find_unused_parameters
        return MMDistributedDataParallel(module=model, broadcast_buffers=False, find_unused_parameters=unused)

    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        """Write a checkpoint aside, flush it, then rename it: under its name there is always a whole one."""
        part = f".{filename}.part"
        super().save_checkpoint(out_dir, part, *args, **kwargs)
        if self.rank == 0:
            replace_atomically(Path(out_dir, part), Path(out_dir, filename))

    def load_checkpoint(self, filename, map_location="cpu", **kwargs):
        """Load all weights of a checkpoint with ``weights_only=True``.

        Raises:
            InputError: The file is unusable or belongs to another config.
        """
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_weights(self.model.module if is_model_wrapper(self.model) else self.model, checkpoint, filename)
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint
