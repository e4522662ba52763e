"""Checkpoints: plain data, written aside and renamed, ``last`` to go on from and ``best`` by validation."""

import difflib
import os
import pickle
from pathlib import Path

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from cmems.errors import InputError
from cmems.registry import HOOKS


def read_checkpoint(path, map_location="cpu"):
    """Read a checkpoint with ``weights_only=True``: nothing in it can execute.

    Raises:
        InputError: The file is missing, truncated, or not a checkpoint of CMEMS.
    """
    path = Path(path)
    if not path.is_file():
        beside = [p.name for p in sorted(path.parent.glob("*.pth"))] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0) or ["no checkpoint"]
        raise InputError(f"checkpoint {path}: no such file; {path.parent} holds {near[0]}")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"checkpoint {path}: truncated, or not a checkpoint of plain data ({reason})") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"checkpoint {path}: expected a dict with 'state_dict' and 'meta', as CMEMS writes it")
    return checkpoint


def load_weights(model, checkpoint, path):
    """Load a checkpoint's weights, all of them.

    Raises:
        InputError: The checkpoint belongs to another config.
    """
    saved, own = checkpoint["state_dict"], model.state_dict()
    missing, extra = [k for k in own if k not in saved], [k for k in saved if k not in own]
    shapes = [k for k in own if k in saved and own[k].shape != saved[k].shape]
    if missing or extra or shapes:
        seen = [f"{len(missing)} weights missing (first {k})" for k in missing[:1]]
        seen += [f"{len(extra)} not expected (first {k})" for k in extra[:1]]
        seen += [f"{k}: expected shape {tuple(own[k].shape)}, got {tuple(saved[k].shape)}" for k in shapes[:1]]
        made_by = checkpoint.get("meta", {}).get("summary", "an unknown config")
        raise InputError(
            f"checkpoint {path} belongs to another config: it was made by {made_by}; "
            f"this config has {summarise(model)}; {'; '.join(seen)}"
        )
    model.load_state_dict(saved)


def summarise(model):
    """Describe a learner's networks in one line."""
    networks = getattr(model, "networks", [])
    kinds = ", ".join(f"{type(n).__name__}({n.num_classes} classes)" for n in networks)
    return f"{len(networks)} network(s): {kinds}"


@HOOKS.register_module()
class LastBestCheckpointHook(Hook):
    """Keeps ``last.pth`` and, by a validation metric, ``best.pth``.

    Args:
        interval (int): Steps between writings of ``last.pth``; it is also written after every validation.
        save_best (str): Metric to maximise. ``"auto"``: DSC of what is cleaned up, else of the
            ensemble, or of network 1 where it is alone.
    """

    priority = "VERY_LOW"

    def __init__(self, interval=500, save_best="auto"):
        self.interval, self.save_best = interval, save_best
        self.best = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Write ``last.pth`` where due; where a validation follows, it is written after that."""
        done = runner.iter + 1
        due = done % self.interval == 0 or done == runner.max_iters
        if due and not runner.train_loop.validation_due(done):
            self._save(runner, "last.pth", done)

    def after_val_epoch(self, runner, metrics=None):
        """Write ``best.pth`` where the metric rose, then ``last.pth``."""
        if not hasattr(runner.train_loop, "iter"):
            return
        key = self.save_best
        if key == "auto":
            key = next((k for k in ("cleaned/DSC", "ensemble/DSC", "network_1/DSC") if k in metrics), None)
        score = metrics.get(key)
        if score is None:
            raise InputError(
                f"checkpoint hook: save_best={self.save_best!r} is not a metric; known: {', '.join(metrics)}"
            )
        if score == score and (self.best is None or score > self.best["score"]):
            self.best = dict(metric=key, score=float(score), step=runner.iter)
            self._save(runner, "best.pth", runner.iter)
        self._save(runner, "last.pth", runner.iter)

    def before_save_checkpoint(self, runner, checkpoint):
        """Make the checkpoint plain data: no history buffers, no numpy scalars."""
        checkpoint["message_hub"] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint["meta"].update(best=self.best, summary=summarise(model), threads=torch.get_num_threads())

    def after_load_checkpoint(self, runner, checkpoint):
        """Remember the best score of the run that goes on; say where its bits will not be those of an unbroken run."""
        meta, threads = checkpoint.get("meta", {}), torch.get_num_threads()
        self.best = meta.get("best")
        if runner._resume and meta.get("threads", threads) != threads and not torch.cuda.is_available():
            runner.logger.warning(
                f"the run was made with {meta['threads']} CPU thread(s) and goes on with {threads}: sums round "
                f"differently, so the weights will not be the same bits; OMP_NUM_THREADS={meta['threads']} keeps them"
            )

    @master_only
    def _save(self, runner, name, step):
        runner.save_checkpoint(
            runner.work_dir,
            name,
            meta=dict(epoch=0, iter=step),
            save_param_scheduler=runner.param_schedulers is not None,
        )


def replace_atomically(part, final):
    """Flush ``part`` to the disk and give it its final name."""
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, final)
