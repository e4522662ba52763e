"""Checkpoints: plain data under a checksum, ``last`` to go on from, ``previous`` in case, ``best`` by validation."""

import copy
import difflib
import functools
import hashlib
import io
import json
import sys
import warnings
import zipfile
from numbers import Real
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader

from cmems.errors import InputError
from cmems.registry import HOOKS

LAST, PREVIOUS, BEST = "last.pth", "previous.pth", "best.pth"
_META = dict(steps=int, world_size=int, threads=int, optimizer=str, best=dict)  # of what is compared; others are shown
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
    for key, kind in _META.items():
        if not isinstance(seen := checkpoint["meta"].get(key), kind | None):
            raise InputError(f"checkpoint {path}: meta: {key}: expected {kind.__name__}, got {type(seen).__name__}")
    for tensor in _tensors(checkpoint):
        if tensor.is_meta or tensor.layout != torch.strided or tensor.nbytes > len(data):
            raise InputError(f"checkpoint {path}: a tensor of {_kind(tensor)} is not in the file in full")
    return checkpoint


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
    with open(path, "r+b") as handle:
        data = handle.read()
        body = data[:-2] + (len(_SEAL) + 64).to_bytes(2, "little") + _SEAL
        handle.seek(len(data) - 2)
        handle.write(body[len(data) - 2 :] + hashlib.sha256(body).hexdigest().encode())


def _check_seal(path, data):
    """Refuse a file that is not what was written; warn of one that carries no checksum."""
    if not data.startswith(b"PK"):
        raise InputError(f"checkpoint {path}: damaged, or a file of another kind: it begins as no checkpoint does")
    damaged = f"checkpoint {path}: truncated or damaged"
    if data[-22:-18] != _END or data[-2:] != b"\0\0":
        body, digest = data[:-64], data[-64:]
        if not body.endswith(_SEAL) or hashlib.sha256(body).hexdigest().encode() != digest:
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
    _warn_once(f"checkpoint {path}: it carries no checksum of its bytes, so that some damage would not be noticed")


@functools.lru_cache
def _warn_once(text):
    print(f"warning: {text}", file=sys.stderr)


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
                read_checkpoint(path)
            except InputError as error:
                problems += error.problems
            else:
                return path, "; ".join(problems) or None
    if problems:
        raise InputError(problems)
    return None, None


def load_weights(model, checkpoint, path):
    """Load a checkpoint's weights, all of them.

    Raises:
        InputError: The checkpoint belongs to another config, or holds NaN or infinity.
    """
    saved, own = checkpoint["state_dict"], model.state_dict()
    missing, extra = [k for k in own if k not in saved], [k for k in saved if k not in own]
    shapes = [k for k in own if k in saved and not _alike(own[k], saved[k], exact=False)]
    if missing or extra or shapes:
        seen = [f"{len(missing)} weights missing (first {k})" for k in missing[:1]]
        seen += [f"{len(extra)} not expected (first {str(k)[:100]})" for k in extra[:1]]
        seen += [f"{k}: expected {_kind(own[k])}, got {_kind(saved[k])}" for k in shapes[:1]]
        made_by = str(checkpoint["meta"].get("summary", "an unknown config"))[:200]
        raise InputError(
            f"checkpoint {path} belongs to another config: it was made by {made_by}; "
            f"this config has {summarise(model)}; {'; '.join(seen)}"
        )
    broken = not_finite(saved)
    if broken:
        raise InputError(
            f"checkpoint {path}: {len(broken)} of {len(saved)} weights are not finite (first {broken[0]}): the "
            "training that left them had diverged"
        )
    model.load_state_dict(saved)


def not_finite(tensors):
    """Return the names of tensors that hold NaN or infinity; one wait for the device."""
    named = {k: v for k, v in tensors.items() if v.is_floating_point() and v.numel()}
    if not named:
        return []
    finite = torch.stack([v.isfinite().all() for v in named.values()]).tolist()
    return [k for k, whole in zip(named, finite, strict=True) if not whole]


def load_optimizer(wrapper, checkpoint, path):
    """Load the state of a checkpoint's optimiser.

    Args:
        wrapper (OptimWrapper): The optimiser that goes on.
        checkpoint (dict): What :func:`read_checkpoint` returned.
        path (str | Path): For messages.

    Raises:
        InputError: It holds none, or that of another optimiser or of other parameters.
    """
    saved, meta = checkpoint.get("optimizer"), checkpoint["meta"]
    if not isinstance(saved, dict):
        raise InputError(
            f"checkpoint {path}: it holds no state of an optimiser, so that training cannot go on from it; "
            f"--cfg-options load_from={path} takes its weights alone"
        )
    optimizer = getattr(wrapper, "optimizer", None)
    own, made_with = type(optimizer).__name__, meta.get("optimizer")
    if optimizer is not None:
        problem = None if made_with in (None, own) else f"made with {str(made_with)[:100]}"
        problem = problem or _misfit(optimizer, saved, meta.get("iter"))
        settings = getattr(wrapper, "base_param_settings", None) or {}  # MMEngine's, where there are several groups
        kept = saved.get("base_param_settings")
        if settings.keys() != (kept if isinstance(kept, dict) else {}).keys():
            problem = problem or "'base_param_settings' is missing or another's"
        if problem:
            raise InputError(f"checkpoint {path}: the state of its optimiser is not that of this {own}: {problem}")
        keys = [set(group) for group in optimizer.param_groups]
    try:
        wrapper.load_state_dict(saved)
    except Exception as error:  # an optimiser of one's own says in its own way what does not fit
        raise InputError(f"checkpoint {path}: the state of its optimiser does not fit: {error!r}"[:400]) from error
    lost = optimizer and {k for had, group in zip(keys, optimizer.param_groups, strict=True) for k in had - set(group)}
    if lost:
        raise InputError(f"checkpoint {path}: the state of its optimiser lacks {', '.join(sorted(lost))}")


def _misfit(optimizer, saved, steps):
    """Tell what in ``saved`` is not as this optimiser would leave it after a step, or None.

    Optimisers index their state without a look at it, some of them in compiled code.
    """
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        twin.step()
    except TypeError:  # one that needs a closure
        return None
    expected = twin.state_dict()
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict):
        return "'param_groups' or 'state' is missing"
    if len(groups) != len(expected["param_groups"]):
        return f"expected {len(expected['param_groups'])} groups of parameters, got {len(groups)}"
    for own, group in zip(expected["param_groups"], groups, strict=True):
        listed = group.get("params") if isinstance(group, dict) else None
        # Types first: a tensor is compared element by element, whatever its size.
        if not isinstance(listed, list) or {*map(type, listed)} - {int} or listed != own["params"]:
            return "its parameters are others"
        strange = [k for k in own if k in group and not _alike(own[k], group[k])]
        if strange:
            return f"{strange[0]}: expected {_kind(own[strange[0]])}, got {_kind(group[strange[0]])}"
    if steps and expected["state"] and not state:
        return "it is empty"
    for index, entry in state.items():
        own = expected["state"].get(index)
        if own is None or not isinstance(entry, dict) or own.keys() != entry.keys():
            return f"parameter {str(index)[:20]}: expected {_names(own)}, got {_names(entry)}"
        strange = [k for k in own if not _alike(own[k], entry[k])]
        if strange:
            key = strange[0]
            return f"parameter {index}, {key}: expected {_kind(own[key])}, got {_kind(entry[key])}"
        broken = not_finite({k: v for k, v in entry.items() if torch.is_tensor(v)})
        if broken:
            return f"parameter {index}, {broken[0]}: not finite"
    return None


def load_schedulers(schedulers, checkpoint, path):
    """Load the states of a checkpoint's schedules.

    Raises:
        InputError: They are missing, or those of other schedules.
    """
    saved = checkpoint.get("param_schedulers")
    groups = list(schedulers.values()) if isinstance(schedulers, dict) else [schedulers]
    states = list(saved.values()) if isinstance(saved, dict) else [saved]
    fit = len(groups) == len(states) and all(
        isinstance(state, list) and len(group) == len(state) for group, state in zip(groups, states, strict=True)
    )
    pairs = [pair for group, state in zip(groups, states, strict=True) for pair in zip(group, state)] if fit else []  # noqa: B905
    for scheduler, state in pairs:
        own = scheduler.state_dict()
        fit = fit and isinstance(state, dict) and state.keys() == own.keys()
        fit = fit and all(_alike(own[k], state[k]) for k in own)
    if not fit:
        raise InputError(f"checkpoint {path}: its schedules (param_scheduler) are missing or not those of this config")
    for scheduler, state in pairs:
        scheduler.load_state_dict(state)


def _alike(own, other, exact=True):
    """Tell whether a value can stand for another: tensors of one shape and type, numbers, or one type."""
    if torch.is_tensor(own):
        plain = torch.is_tensor(other) and other.layout == own.layout == torch.strided and not other.is_meta
        types = plain and (own.dtype == other.dtype if exact else own.is_floating_point() == other.is_floating_point())
        return plain and types and own.shape == other.shape and not other.is_quantized
    if isinstance(own, (list, tuple)):
        same = isinstance(other, (list, tuple)) and len(own) == len(other)
        return same and all(_alike(a, b) for a, b in zip(own, other, strict=True))
    numbers = isinstance(own, Real) and isinstance(other, Real)
    # What is switched by itself, as fused, is None, or a bool.
    return numbers or type(own) is type(other) or {type(own), type(other)} <= {type(None), bool}


def _kind(value):
    if torch.is_tensor(value):
        return f"shape {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _names(entry):
    return ", ".join(str(k)[:40] for k in list(entry)[:12]) if isinstance(entry, dict) else type(entry).__name__


def differing(made, own):
    """List where two settings differ, as ``key: value there, value here``.

    Args:
        made, own (dict): Of a checkpoint, and of the run that would go on; nested dicts and lists of plain values.
    """
    made, own = dict(_leaves(made)), dict(_leaves(own))
    return [
        f"{key}: {made.get(key, 'not set')} there, {own.get(key, 'not set')} here"[:200]
        for key in {**made, **own}
        if made.get(key, "not set") != own.get(key, "not set")
    ]


def _leaves(value, path=""):
    if not isinstance(value, (dict, list)) or not value:
        yield path, json.dumps(value)
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(part, f"{path}.{key}" if path else str(key))


def summarise(model):
    """Describe a learner's networks in one line."""
    networks = getattr(model, "networks", [])
    kinds = ", ".join(f"{type(n).__name__}({n.num_classes} classes)" for n in networks)
    return f"{len(networks)} network(s): {kinds}"


@CheckpointLoader.register_scheme(prefixes="", force=True)
def _load_local(filename, map_location=None):
    """Read what a config's ``init_cfg`` names, as plain data too: MMEngine's own leaves that to torch's version."""
    return torch.load(filename, map_location=map_location, weights_only=True)


@HOOKS.register_module()
class LastBestCheckpointHook(Hook):
    """Keeps ``last.pth`` with the one before it, ``previous.pth``, and, by a validation metric, ``best.pth``.

    Args:
        interval (int): Steps between writings of ``last.pth``; it is also written after every validation.
        save_best (str): Metric to maximise. ``"auto"``: DSC of what is cleaned up, else of the
            ensemble, or of network 1 where it is alone.
    """

    priority = "VERY_LOW"

    def __init__(self, interval=500, save_best="auto"):
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
        if not names or not all(names):  # a metric of one's own is known once it was computed
            return
        networks = len(runner.model.module.networks if is_model_wrapper(runner.model) else runner.model.networks)
        models = ["ensemble"] * (networks > 1) + [f"network_{m}" for m in range(1, networks + 1)]
        each = ["", *(f"_{c}" for c in runner.train_loop.data.prepared.classes)]
        known = [f"{model}/{name}{c}" for model in models for name in names for c in each]
        wanted = f"{models[0]}/DSC" if self.save_best == "auto" else self.save_best
        if wanted not in known:
            near = difflib.get_close_matches(wanted, known, n=3, cutoff=0)
            raise InputError(
                f"default_hooks.checkpoint.save_best: {wanted} is not measured by val_evaluator; "
                f"near: {', '.join(near)}"
            )

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
        score = metrics.get(key)
        if score is None:
            raise InputError(
                f"checkpoint hook: save_best={self.save_best!r} is not a metric; known: {', '.join(metrics)}"
            )
        if score == score and (self.best is None or score > self.best["score"]):
            self.best = dict(metric=key, score=float(score), step=runner.iter)
            runner.save_checkpoint(runner.work_dir, BEST, meta=dict(epoch=0, iter=runner.iter))
        runner.save_last(runner.iter)

    def before_save_checkpoint(self, runner, checkpoint):
        """Make the checkpoint plain data: no history buffers, no numpy scalars."""
        checkpoint["message_hub"] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint["meta"].update(best=self.best, summary=summarise(model), threads=torch.get_num_threads())

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

    def _standing(self, runner, best):
        """Return the best score if it is one and its checkpoint is whole: else the next validation's is the best."""
        if best is None:
            return None
        path = Path(runner.work_dir, BEST)
        try:
            read_checkpoint(path)
            return dict(metric=str(best["metric"]), score=float(best["score"]), step=int(best["step"]))
        except (InputError, KeyError, TypeError, ValueError) as error:
            runner.logger.warning(f"{BEST} is chosen anew from here on: {error}")
            return None
