"""MMEngine's Runner with a quiet terminal and checkpoints that are data."""

import json
import logging
import math
import re
import shutil
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

import torch
from mmengine.dist import master_only
from mmengine.hooks import EarlyStoppingHook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner

from cmems import ops
from cmems.engine.checkpoint import BEST, LAST, PREVIOUS, LastBestCheckpointHook, read_checkpoint, seal
from cmems.engine.checks import check_measured, check_model, check_optimizer, check_paramwise, check_schedules, told
from cmems.engine.finite import REPORT
from cmems.engine.memory import keep_freed_memory, recompute
from cmems.engine.restore import load_optimizer, load_schedulers, load_weights
from cmems.engine.settings import differing, known_to, of_training
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.registry import RUNNERS

RECORD, PAGE = "run.json", "report.html"  # what a run did, and a page about it, in its work directory
# Of MMEngine's warnings on the terminal: its own calls, and a server that a file needs not.
_MMENGINES = re.compile("deprecated|make sure that the mlflow server is running")
# What training needs is there whatever lists of hooks a config sets; a name set to None is left out, but for what
# writes the checkpoints, which all that follows a training reads.
_NEEDED = dict(
    runtime_info=dict(type="TrainLogHook"),
    checkpoint=dict(type="LastBestCheckpointHook"),
    precise_norm=dict(type="PreciseNormHook"),
)
_MMENGINES_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
OWN_HOOKS = {*_NEEDED, *_MMENGINES_HOOKS}  # which every run has, unless a config has None there


def set_up_cpu(env_cfg):
    """Switch the compiled kernels, and keep freed memory, as a config's ``env_cfg`` says."""
    ops.enable(env_cfg.get("compiled_kernels", True))
    if env_cfg.get("keep_memory", True):
        keep_freed_memory()


def remove_run(work_dir, keep, began=math.inf):
    """Remove the checkpoints and logs of a run, all but the folder ``keep`` and a picture drawn since ``began``."""
    for name in (LAST, PREVIOUS, BEST, REPORT, RECORD, PAGE, "curves.png"):
        Path(work_dir, name).unlink(missing_ok=True)
    if (drawn := Path(work_dir, "exemplars.png")).is_file() and drawn.stat().st_mtime < began:
        drawn.unlink()
    for folder in {path.parent for path in Path(work_dir).glob("*/vis_data")} - {Path(keep)}:
        shutil.rmtree(folder)


def _schedules(settings):
    found = settings.get("param_scheduler") or []
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)]


@RUNNERS.register_module()
class SegmentationRunner(Runner):
    """A Runner whose log goes to the file, warnings alone to the terminal, and whose checkpoints load safely.

    ``env_cfg`` takes, besides MMEngine's keys, ``compiled_kernels`` (see :mod:`cmems.ops`) and ``keep_memory`` (see
    :func:`cmems.engine.memory.keep_freed_memory`); both are on unless they are False, and matter on CPUs alone.

    Attributes:
        settings (dict | None): What the run is made of, in plain values; kept in checkpoints, and compared with where
            a run goes on. None: not compared.
        beside (str | None): What one's own code is known by, modules and hooks, as JSON; kept in checkpoints, and a
            change is said where a run goes on.
        preparation (str | None): How the data was prepared, as JSON; kept in checkpoints, to be published with them.
        trained_on (list[str] | None): By what the voxels of the training scans are known, as manifests tell it; kept in
            checkpoints, so that a test notices a scan that was trained on.
        starts_over (float | None): When this run began, in seconds of the epoch, where it replaces what an earlier one
            left in the work directory: once a step was made, as what a config has wrong ends by then.
        budget (dict | None): The option that its steps are of, ``{"steps": N}`` or ``{"hours": H}``, which holds
            where it goes on; kept in checkpoints.
        laid_out (int | None): Of how many steps the run that goes on first was, which shares of steps are of; kept in
            checkpoints. None: of as many as this one.
    """

    settings, beside, preparation, trained_on, starts_over, budget, laid_out = (None,) * 7
    _began = set()  # the timestamps of this process's runs

    def setup_env(self, env_cfg):
        """Set up what MMEngine does, the compiled kernels and the memory.

        The timestamp, to the second, names the run's folder, and the logger, curves and averages that MMEngine keeps
        for a process: a further run of the same second gets ``_1``, else it would write into the first one's.
        """
        super().setup_env(env_cfg)
        names = (f"{self._timestamp}_{n}" if n else self._timestamp for n in count())
        self._timestamp = next(name for name in names if name not in self._began)
        self._began.add(self._timestamp)
        set_up_cpu(env_cfg)

    def build_logger(self, log_level="INFO", log_file=None, **kwargs):
        """Build MMEngine's logger and keep everything below a warning off the terminal."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            handler.handleError = lambda record: None  # a full disk or a closed terminal: a log is not worth a run
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
                handler.addFilter(lambda record: not _MMENGINES.search(record.getMessage()))
        return logger

    def build_log_processor(self, log_processor):
        """Build what sums up the log; raises InputError."""
        with told("log_processor"):
            built = super().build_log_processor(log_processor)
        for key, least in (("window_size", 1), ("num_digits", 0)):
            if type(value := getattr(built, key, least)) is not int or value < least:
                raise InputError(f"log_processor.{key}: expected an integer of {least} or more, got {value!r}")
        return built

    def dump_config(self):
        """Write the config into the work directory, but not over the file that it was read from, or a training's."""
        name = self.cfg.filename
        target = name and Path(self.work_dir, Path(name).name)
        beside = self._train_loop is None and any(Path(self.work_dir, each).is_file() for each in (LAST, RECORD))
        if not (target and target.exists() and (beside or target.samefile(name))):
            super().dump_config()

    def wrap_model(self, model_wrapper_cfg, model):
        """Wrap the model for several processes; on CPUs too, where MMEngine would name a GPU.

        Where a term has its first or last step, parameters may be without a gradient before or after it, and so may
        those that no term reaches.
        """
        if self.distributed and self.cfg.get("find_unused_parameters") is None:
            objectives = getattr(model, "objectives", ())
            whole = any(o.reaches_all for o in objectives)
            self.cfg.find_unused_parameters = not whole or any(o.begin or o.end is not None for o in objectives)
        with told("model_wrapper_cfg, or model.backbone.norm_cfg"):
            if not self.distributed or torch.cuda.is_available():
                return super().wrap_model(model_wrapper_cfg, model)
            unused = self.cfg.find_unused_parameters
            return MMDistributedDataParallel(module=model, broadcast_buffers=False, find_unused_parameters=unused)

    def build_train_loop(self, loop):
        """Build the loop, and with it the data; raises InputError."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        check_model(model, self.cfg)
        if names := self.cfg.get("activation_checkpointing"):
            recompute(model, names)
            self.cfg.activation_checkpointing = None  # MMEngine's way gives what reads images alone no gradient
            loop = dict(loop, graph=False)
        with told("train_cfg or train_dataloader"):
            return super().build_train_loop(loop)

    def build_val_loop(self, loop):
        """Build the validation; raises InputError."""
        with told("val_cfg, val_dataloader or val_evaluator"):
            return check_measured(super().build_val_loop(loop), "val")

    def build_test_loop(self, loop):
        """Build the test; raises InputError."""
        with told("test_cfg, test_dataloader or test_evaluator"):
            return check_measured(super().build_test_loop(loop), "test")

    def build_optim_wrapper(self, optim_wrapper):
        """Build the optimiser; raises InputError."""
        if isinstance(optim_wrapper, dict):
            check_paramwise(optim_wrapper, self.model)
        with told("optim_wrapper"):
            wrapper = super().build_optim_wrapper(optim_wrapper)
        check_optimizer(wrapper)
        return wrapper

    def build_param_scheduler(self, scheduler):
        """Build the schedules; raises InputError."""
        with told("param_scheduler"):
            built = super().build_param_scheduler(scheduler)
            check_schedules(chain(*built.values()) if isinstance(built, dict) else built)
        return built

    def register_default_hooks(self, hooks=None):
        """Register MMEngine's hooks, those that training needs, and the config's, which replace those of their name.

        ``last.pth`` is written whatever the config has in the place of the checkpoint hook.
        """
        hooks = {**_NEEDED, **(hooks or {})}
        super().register_default_hooks(
            {k: hook for k, hook in hooks.items() if hook is not None or k in _MMENGINES_HOOKS}
        )
        if not any(isinstance(hook, LastBestCheckpointHook) for hook in self.hooks):
            self.register_hook(_NEEDED["checkpoint"])  # beside MMEngine's or one's own

    def call_hook(self, fn_name, **kwargs):
        """Call the hooks; between the volumes of a validation a signal may end the training."""
        super().call_hook(fn_name, **kwargs)
        if fn_name == "after_val_iter" and hasattr(self._train_loop, "stop_if_asked"):
            self._train_loop.stop_if_asked(validating=True)

    @master_only
    def save_checkpoint(self, out_dir, filename, *args, meta=None, keep=None, **kwargs):
        """Write a checkpoint aside, seal and flush it, then rename it: under its name there is always a whole one.

        Args:
            out_dir, filename (str): Where to.
            meta (dict | None): Kept beside what MMEngine says of the run.
            keep (str | None): Name for the file that it replaces.
            *args, **kwargs: MMEngine's.

        Raises:
            InputError: A loss or a weight is not a finite number; nothing is written.
            OSError: It cannot be written; the one before it stays.
        """
        guard = getattr(self.train_loop, "guard", None)
        if guard is not None:
            guard.check()
        kwargs.setdefault("save_param_scheduler", self.param_schedulers is not None)
        meta = dict(meta or {}, settings=json.dumps(self.settings), world_size=self.world_size, steps=self.max_iters)
        meta.update(laid_out=self.laid_out or self.max_iters, budget=self.budget)
        meta.update(preparation=self.preparation, trained_on=self.trained_on, beside=self.beside)
        if hasattr(self.optim_wrapper, "optimizer"):
            meta["optimizer"] = type(self.optim_wrapper.optimizer).__name__
        path = Path(out_dir, filename)
        with whole_file(path) as part:
            super().save_checkpoint(str(part.parent), part.name, *args, meta=meta, **kwargs)
            seal(part)
            if keep and path.is_file():
                path.replace(path.with_name(keep))

    def save_last(self, steps, validated=True):
        """Write ``last.pth``, and keep the one before it as ``previous.pth``.

        Args:
            steps (int): Steps done.
            validated (bool): Whether the validation that is due after them, if any, is done too.
        """
        meta = dict(epoch=0, iter=steps, validated=validated)
        self.save_checkpoint(self.work_dir, LAST, meta=meta, keep=PREVIOUS)

    def load_checkpoint(self, filename, map_location="cpu", **kwargs):
        """Load all weights of a checkpoint with ``weights_only=True``.

        Raises:
            InputError: The file is unusable or belongs to another config.
        """
        return self._load(read_checkpoint(filename), filename)

    def _load(self, checkpoint, path):
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_weights(self.model.module if is_model_wrapper(self.model) else self.model, checkpoint, path)
        self._has_loaded = True
        self.logger.info(f"loaded {path}")
        return checkpoint

    def resume(self, filename, resume_optimizer=True, resume_param_scheduler=True, map_location="default"):
        """Go on from a checkpoint.

        MMEngine's own evaluates the text of the config that a checkpoint carries; here a checkpoint is data.

        Args:
            filename (str): The checkpoint.
            resume_optimizer (bool): Take the optimiser's state too.
            resume_param_scheduler (bool): Take the schedules' states too.
            map_location (str): Not used: everything is read to the CPU and copied from there.

        Raises:
            InputError: The file is unusable, was made by another config or from other data, or lacks a part.
        """
        checkpoint = read_checkpoint(filename)
        meta = checkpoint["meta"]
        self._check_origin(meta, filename)
        self._load(checkpoint, filename)
        self.train_loop.go_on(meta["iter"], bool(meta.get("validated", True)))
        if self._randomness_cfg.get("seed") is None and isinstance(meta.get("seed"), int):
            self._randomness_cfg["seed"] = meta["seed"]
            self.set_randomness(**self._randomness_cfg)
        if resume_optimizer:
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
            load_optimizer(self.optim_wrapper, checkpoint, filename)
        if resume_param_scheduler and self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            load_schedulers(self.param_schedulers, checkpoint, filename)
        if any(isinstance(hook, EarlyStoppingHook) for hook in self.hooks):
            self.logger.warning("EarlyStoppingHook counts anew: what it saw before is in no checkpoint")
        self.logger.info(f"resumed from {filename} at step {meta['iter']}")

    def start_over(self):
        """Remove what an earlier run left in the work directory, where asked for; once, after the first step."""
        if self.starts_over:
            remove_run(self.work_dir, self.log_dir, self.starts_over)
            self.starts_over = None

    def _check_origin(self, meta, path):
        """Refuse a checkpoint whose run is not the one that would go on."""
        if not isinstance(meta.get("iter"), int) or meta["iter"] < 0:
            raise InputError(f"checkpoint {path}: it does not tell how many steps it was made with")
        try:
            made = json.loads(meta.get("settings", "null"))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"checkpoint {path}: its settings are not JSON ({error})") from error
        found = []
        if isinstance(made, dict) and self.settings is not None:
            for old, new in zip(_schedules(made), _schedules(self.settings), strict=False):
                if old.get("end") == meta.get("steps") and new.get("end") == self.max_iters:
                    old["end"] = new["end"]  # each ends with its run, which may be made longer
            if self.settings.get("load_from") is None and "load_from" in made:
                # A run that goes on needs the weights no more that it began with.
                self.settings = {**self.settings, "load_from": made["load_from"]}
            found = differing(of_training(made), of_training(known_to(made, self.settings)))
        if meta.get("world_size", self.world_size) != self.world_size:
            found.append(f"processes: {meta['world_size']} there, {self.world_size} here")
        if made is None and self._randomness_cfg.get("seed") not in (None, meta.get("seed")):
            found.append(f"randomness.seed: {meta.get('seed')} there, {self._randomness_cfg['seed']} here")
        if found:
            more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
            raise InputError(
                f"{path} was made by another config or from other data: {'; '.join(found[:4])}{more}. Go on with what "
                "it was made with, remove it to train anew, or train into another --work-dir"
            )
        with suppress(TypeError, ValueError, RecursionError):  # of one that does not tell, nothing is said
            for line in differing(json.loads(meta["beside"]), json.loads(self.beside)) if meta.get("beside") else ():
                self.logger.warning(f"{path}: the run goes on with other code of one's own: {line}")
