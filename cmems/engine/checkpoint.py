"""Checkpoints: plain data under a checksum, ``last`` to go on from, ``previous`` in case, ``best`` by validation."""

import difflib
import functools
import hashlib
import io
import json
import os
import warnings
import zipfile
from itertools import chain
from pathlib import Path

import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader

from cmems import ops
from cmems.engine.restore import kind, summarise
from cmems.engine.settings import differing, known_to, validated_by
from cmems.errors import InputError, warn_once
from cmems.registry import HOOKS

LAST, PREVIOUS, BEST = "last.pth", "previous.pth", "best.pth"
# Of what is compared or shown.
_META = dict(iter=int, steps=int, laid_out=int, world_size=int, threads=int, optimizer=str, best=dict, budget=dict)
_END, _SEAL = b"PK\x05\x06", b"cmems sha256 "  # of a zip file; of the comment that ends ours


def read_checkpoint(path):
    """Read a checkpoint to the CPU with ``weights_only=True``: nothing in it can execute.

    A checkpoint without a checksum, from before there was one or written by other code, is read with a warning.

    Returns:
        dict: ``state_dict`` (weights by name), ``meta`` and more.

    Raises:
        InputError: The file is missing, truncated, damaged, or not a checkpoint of CMEMS.
    """
    path = Path(path)
    if path.is_dir():
        held = ", ".join(sorted(p.name for p in path.glob("*.pth"))) or "no checkpoint"
        raise InputError(f"checkpoint {path}: expected a file, got a folder; it holds {held}")
    if not path.is_file():
        beside = [p.name for p in sorted(path.parent.glob("*.pth"))] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0) or ["no checkpoint"]
        raise InputError(f"checkpoint {path}: no such file; {path.parent} holds {near[0]}")
    data = path.read_bytes()
    _check_seal(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes torch's reader raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"checkpoint {path}: damaged, or not a checkpoint of plain data ({reason})") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not isinstance(checkpoint.setdefault("meta", {}), dict):
        raise InputError(f"checkpoint {path}: expected a dict with 'state_dict' and 'meta', as CMEMS writes it")
    for name, values in weights.items():
        if not (isinstance(name, str) and torch.is_tensor(values)):
            raise InputError(
                f"checkpoint {path}: state_dict: expected tensors by name, got {type(values).__name__} by {name!r:.60}"
            )
    for key, wanted in _META.items():
        if not isinstance(seen := checkpoint["meta"].get(key), wanted | None):
            raise InputError(f"checkpoint {path}: meta: {key}: expected {wanted.__name__}, got {type(seen).__name__}")
    for key, seen in checkpoint["meta"].items():  # which has no truth and no equal
        if next(_tensors(seen), None) is not None:
            raise InputError(f"checkpoint {path}: meta: {str(key)[:40]}: expected a plain value, got a tensor")
    for tensor in _tensors(checkpoint):
        if tensor.is_meta or tensor.layout != torch.strided or tensor.nbytes > len(data):
            raise InputError(f"checkpoint {path}: a tensor of {kind(tensor)} is not in the file in full")
    return checkpoint


def read_meta(path):
    """Read what a checkpoint says of its run. A file that stays as it is is read, and found whole, once.

    Returns:
        dict: Its ``meta``; not to be changed.

    Raises:
        InputError: As :func:`read_checkpoint`.
    """
    try:
        now = os.stat(path)
    except OSError:
        return read_checkpoint(path)["meta"]
    return _meta_of(str(path), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


@functools.lru_cache(maxsize=8)
def _meta_of(path, *version):
    return read_checkpoint(path)["meta"]


def _tensors(value):
    """Yield the tensors in nested dicts, lists and tuples, which a file may nest deep or into themselves."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if torch.is_tensor(value):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def seal(path):
    """End a file of ``torch.save`` with the checksum of all its bytes, as the comment that a zip file may have."""
    digest = hashlib.sha256()
    with open(path, "r+b") as handle:
        handle.seek(-2, os.SEEK_END)
        handle.write((len(_SEAL) + 64).to_bytes(2, "little") + _SEAL)
        handle.seek(0)
        while part := handle.read(1 << 20):
            digest.update(part)
        handle.write(digest.hexdigest().encode())


def _check_seal(path, data):
    """Refuse a file that is not what was written; warn of one that carries no checksum."""
    if not data.startswith(b"PK"):
        raise InputError(f"checkpoint {path}: damaged, or a file of another kind: it begins as no checkpoint does")
    damaged = f"checkpoint {path}: truncated or damaged"
    if data[-22:-18] != _END or data[-2:] != b"\0\0":
        sealed = data[-64 - len(_SEAL) : -64] == _SEAL
        if not sealed or hashlib.sha256(memoryview(data)[:-64]).hexdigest().encode() != data[-64:]:
            raise InputError(f"{damaged}: its bytes are not those of its checksum")
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:  # torch writes sums of the parts, and reads without them
            packed = [part.filename for part in parts.infolist() if part.compress_type != zipfile.ZIP_STORED]
            broken = packed[0] if packed else parts.testzip()
    except Exception as error:  # zipfile raises many kinds over a foreign file
        raise InputError(f"{damaged} ({error})") from error
    if broken:
        raise InputError(f"{damaged} (at {broken})")
    warn_once(f"checkpoint {path}: it carries no checksum of its bytes, so that some damage would not be noticed")


def newest_whole(work_dir):
    """Find what a run of ``work_dir`` goes on from.

    Returns:
        tuple[Path | None, str | None]: ``last.pth``, or ``previous.pth`` where that is damaged or was never renamed;
        and what was wrong with the former.

    Raises:
        InputError: There are checkpoints, and none is whole.
    """
    problems = []
    for path in (Path(work_dir, name) for name in (LAST, PREVIOUS)):
        if path.is_file():
            try:
                read_meta(path)
            except InputError as error:
                problems += error.problems
            else:
                return path, "; ".join(problems) or None
    if problems:
        raise InputError(problems)
    return None, None


@CheckpointLoader.register_scheme(prefixes="", force=True)
def _load_local(filename, map_location=None):
    """Read what a config's ``init_cfg`` names, as plain data too: MMEngine's own leaves that to torch's version."""
    return torch.load(filename, map_location=map_location, weights_only=True)


def _monitored(runner):
    """Yield the metrics that MMEngine's hooks and schedules look at after each validation, by what asks for them."""
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook):
            yield "EarlyStoppingHook: monitor", hook.monitor
        for key in getattr(hook, "key_indicators", ()) if isinstance(hook, CheckpointHook) and hook.save_best else ():
            if key != "auto":
                yield "CheckpointHook: save_best", key
    found = runner.param_schedulers or []
    for schedule in chain(*found.values()) if isinstance(found, dict) else found:
        if getattr(schedule, "need_val_args", False):
            yield f"param_scheduler: {type(schedule).__name__}: monitor", schedule.monitor


@HOOKS.register_module()
class LastBestCheckpointHook(Hook):
    """Keeps ``last.pth`` with the one before it, ``previous.pth``, and, by a validation metric, ``best.pth``.

    Args:
        interval (int): Steps between writings of ``last.pth``; it is also written after every validation.
        save_best (str): Metric to maximise. ``"auto"``: DSC of what is cleaned up, else of the
            ensemble, or of network 1 where it is alone; where metrics of one's own measure none, ``last.pth`` alone is
            kept.
    """

    priority = "VERY_LOW"

    def __init__(self, interval=500, save_best="auto"):
        if not isinstance(save_best, str):
            raise InputError(f"LastBestCheckpointHook: save_best: expected a metric or 'auto', got {save_best!r}")
        self.interval, self.save_best = interval, save_best
        self.best = None

    def before_train(self, runner):
        """Refuse a metric that no validation will have, before the first step.

        Raises:
            InputError: Naming those near it.
        """
        names = [
            getattr(metric, "name", None) for metric in (runner.val_loop.evaluator.metrics if runner.val_loop else ())
        ]
        if not names:
            return
        if not all(names):  # a metric of one's own is known once it was computed
            if self.save_best == "auto" and "DSC" not in names:
                runner.logger.warning(
                    f"default_hooks.checkpoint.save_best='auto' chooses {BEST} by DSC; if val_evaluator measures none, "
                    f"{LAST} alone is kept: name the metric to maximise"
                )
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        models = model.prediction.names(len(model.networks))
        each = ["", *(f"_{c}" for c in runner.train_loop.data.prepared.classes)]
        known = [f"{model}/{name}{c}" for model in models for name in names for c in each]
        own = f"{models[-1]}/DSC" if self.save_best == "auto" else self.save_best
        for key, wanted in (("default_hooks.checkpoint.save_best", own), *_monitored(runner)):
            if wanted not in known:
                near = difflib.get_close_matches(wanted, known, n=3, cutoff=0)
                raise InputError(f"{key}: {wanted} is not measured by val_evaluator; near: {', '.join(near)}")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Write ``last.pth`` where due; where a validation follows, it is written after that."""
        done = runner.iter + 1
        due = runner.train_loop.passed(done, self.interval) or done == runner.max_iters
        if due and not runner.train_loop.validation_due(done):
            runner.save_last(done)

    def after_val_epoch(self, runner, metrics=None):
        """Write ``best.pth`` where the metric rose, then ``last.pth``."""
        if not hasattr(runner.train_loop, "iter"):
            return
        key = self.save_best
        if key == "auto":
            key = next((k for k in ("cleaned/DSC", "ensemble/DSC", "network_1/DSC") if k in metrics), None)
        score = metrics.get(key, float("nan") if self.save_best == "auto" else None)
        if score is None:
            raise InputError(
                f"checkpoint hook: save_best={self.save_best!r} is not a metric; known: {', '.join(metrics)}"
            )
        if self.best is not None and key and self.best["metric"] != key:
            runner.logger.warning(f"{BEST} is chosen anew from here on: by {key}, not {self.best['metric']}")
            self.best = None
        if score == score and (self.best is None or score > self.best["score"]):
            self.best = dict(metric=key, score=float(score), step=runner.iter, measured=validated_by(runner))
            runner.save_checkpoint(runner.work_dir, BEST, meta=dict(epoch=0, iter=runner.iter))
        runner.save_last(runner.iter)

    def before_save_checkpoint(self, runner, checkpoint):
        """Make the checkpoint plain data: no history buffers, no numpy scalars."""
        checkpoint["message_hub"] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint["meta"].update(best=self.best, summary=summarise(model), threads=torch.get_num_threads())
        checkpoint["meta"]["kernels"] = ops.why_not() is None

    def after_load_checkpoint(self, runner, checkpoint):
        """Remember the best score of the run that goes on; say where its bits will not be those of an unbroken run."""
        if not runner._resume:
            return
        meta, threads = checkpoint["meta"], torch.get_num_threads()
        self.best = self._standing(runner, meta.get("best"))
        if meta.get("threads", threads) != threads and not torch.cuda.is_available():
            runner.logger.warning(
                f"the run was made with {meta['threads']} CPU thread(s) and goes on with {threads}: sums round "
                f"differently, so the weights will not be the same bits; OMP_NUM_THREADS={meta['threads']} keeps them"
            )
        reason = ops.why_not()
        if meta.get("kernels", reason is None) != (reason is None) and not torch.cuda.is_available():
            made, goes_on = ("with", f"without them ({reason})") if reason else ("without", "with them")
            runner.logger.warning(
                f"the run was made {made} the compiled kernels and goes on {goes_on}: sums round differently, so the "
                "weights will not be the same bits"
            )

    def _standing(self, runner, best):
        """Return the best score if it is one and its checkpoint is whole: else the next validation's is the best."""
        if best is None:
            return None
        path = Path(runner.work_dir, BEST)
        try:
            read_meta(path)
            measured = best.get("measured")
            if measured is not None:
                own = json.loads(validated_by(runner))
                if odd := differing(made := json.loads(measured), known_to(made, own)):
                    raise InputError(f"it was chosen by another validation: {'; '.join(odd)}")
            known = dict(metric=str(best["metric"]), score=float(best["score"]), step=int(best["step"]))
            return dict(known, measured=measured)
        except (InputError, KeyError, TypeError, ValueError, RecursionError) as error:
            runner.logger.warning(f"{BEST} is chosen anew from here on: {error}")
            return None
