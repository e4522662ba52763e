"""Fitting a config to a number of steps, or to a time."""

import copy
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from cmems.apis.config import count_steps, value_typed
from cmems.datasets.volumes import VolumeDataset
from cmems.engine.checks import check_optimizer, told
from cmems.engine.graph import StepGraph, why_not
from cmems.engine.loop import check_lengths, open_data
from cmems.engine.norm import measure_norms
from cmems.engine.runner import set_up_cpu
from cmems.errors import InputError, warn_once
from cmems.files import whole_file
from cmems.registry import MODELS
from cmems.seeding import Draws

_WARM_UP, _TIMED = 2, 4  # steps
_MOST_STEPS, _MOST_HOURS = 10**12, 10**6
_STEPS, _INTERVAL = "train_cfg.max_iters", "train_cfg.val_interval"
_FOUND = dict(hours=float, steps=int, seconds_per_step=float, seconds_per_validation=float)  # in budget.json
_METRICS = 1.3  # of a validation's time, beside its forwards


def check_steps(steps):
    """Raise InputError for what is no positive integer, or one that no machine comes to."""
    if type(steps) is not int or not 1 <= steps <= _MOST_STEPS:
        wanted = f"at most {_MOST_STEPS}" if type(steps) is int and steps > 0 else "a positive integer"
        raise InputError(f"--steps: expected {wanted}, got {steps!r:.60}")


def fit_to_steps(cfg, steps, options=None):
    """Set a config's number of steps, and what goes with it: validations as many as before, and the learning rate.

    The rate is that of ``budget.rates``, ``{steps: rate}`` in the config, log-linear between its entries; without it,
    the config's own. Ramps and schedules given as shares of the training follow by themselves. What ``options`` set
    stays as they set it.

    Args:
        cfg (Config): Changed in place.
        steps (int): Steps to train.
        options (dict | None): Dotted keys that were set in the config, as for :func:`cmems.apis.load_config`.

    Raises:
        InputError: Not a positive integer, or the options set another number of steps.
    """
    check_steps(steps)
    asked = value_typed(options, _STEPS)
    if asked not in (None, steps):
        raise InputError(f"--steps {steps}: expected no other number of steps, got {_STEPS}={asked} too")
    interval = math.ceil(steps / _validations(cfg)) if value_typed(options, _INTERVAL) is None else None
    cfg.train_cfg.update(max_iters=steps, val_interval=interval or cfg.train_cfg.val_interval)
    if value_typed(options, "optim_wrapper.optimizer.lr") is not None:
        return
    with told("budget.rates"):
        given = (cfg.get("budget") or {}).get("rates") or {}
        rates = sorted({int(s): float(r) for s, r in given.items()}.items())  # options name steps by texts, and win
        if rates:
            cfg.optim_wrapper.optimizer.lr = _between(rates, steps)


def _validations(cfg):
    """Return how many validations a config's training has; raises InputError where its ``train_cfg`` does not tell."""
    check_lengths(cfg.train_cfg.max_iters, cfg.train_cfg.val_interval)
    return max(1, round(cfg.train_cfg.max_iters / cfg.train_cfg.val_interval))


def fit_to_hours(cfg, hours, work_dir, resume=False, options=None):
    """Set a config's number of steps to what this machine makes in a time, validations included.

    A few steps and a validation volume are timed. A run that goes on keeps its number of steps, which
    :func:`keep_budget` wrote.

    Args:
        cfg (Config): Changed in place.
        hours (float): Of training.
        work_dir (str): Where ``budget.json`` is, if any.
        resume (bool): Take what an earlier run found there.
        options (dict | None): As for :func:`fit_to_steps`.

    Returns:
        dict: ``hours``, ``steps``, ``seconds_per_step``, ``seconds_per_validation``.

    Raises:
        InputError: Not a positive number, or too little for ten steps; or the options set a number of steps.
    """
    if type(hours) not in (int, float) or not 0 < hours <= _MOST_HOURS:
        raise InputError(f"--hours: expected a number of more than 0, at most {_MOST_HOURS}, got {hours!r:.60}")
    if (asked := value_typed(options, _STEPS)) is not None:
        raise InputError(f"--hours {hours:g}: finds the number of steps; expected no {_STEPS}={asked} beside it")
    path = Path(work_dir, "budget.json")
    if resume and path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found = {key: kind(found[key]) for key, kind in _FOUND.items()}
            if not all(0 <= value < math.inf for value in found.values()) or not found["steps"]:
                raise ValueError("expected numbers of more than 0")
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}: damaged; expected what --hours wrote there ({error!r})") from error
        fit_to_steps(cfg, found["steps"], options)
        if found["hours"] != hours:
            warn_once(f"--hours {hours:g}: {path} lays the run out for {found['steps']} steps; --steps N changes that")
        return found
    validations, interval = _validations(cfg), value_typed(options, _INTERVAL)
    step, validation = _seconds(cfg)
    if interval is not None:  # the more steps, the more validations
        validations = max(1, int(3600 * hours / (step * interval + validation)))
    steps = int((3600 * hours - validations * validation) / step)
    if steps < 10:
        raise InputError(
            f"--hours {hours:g}: too little: a step takes {step:.2g} s here and {validations} validations "
            f"{validations * validation:.2g} s"
        )
    fit_to_steps(cfg, steps, options)
    found = dict(hours=hours, steps=steps, seconds_per_step=step, seconds_per_validation=validation)
    return found


def keep_budget(found, work_dir):
    """Write what :func:`fit_to_hours` found to ``budget.json``, for a run that goes on; None: no earlier one holds."""
    path = Path(work_dir, "budget.json")
    if found is None:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as part:
        part.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _seconds(cfg):
    """Time a training step and a validation of a config; nothing of it is kept."""
    set_up_cpu(cfg.get("env_cfg") or {})
    cfg = copy.deepcopy(cfg)
    count_steps(cfg)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with told("model"):
        model = MODELS.build(cfg.model).to(device).train()
    with told("train_dataloader"):
        data = open_data(model, cfg.train_dataloader)
    with told("optim_wrapper"), DefaultScope.overwrite_default_scope("cmems"):  # in which a runner builds it
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    check_optimizer(wrapper)
    step = _seconds_per_step(model, data, wrapper, cfg.train_cfg, device)
    dataset = cfg.val_dataloader.dataset if cfg.get("val_dataloader") else None
    if dataset is None:
        return step, 0.0
    if dataset.type != "VolumeDataset":
        warn_once(f"--hours: validations of {dataset.type} are not timed, and come on top")
        return step, 0.0
    volumes, began = VolumeDataset(dataset.data_root, dataset.split), _now(device)
    slices = [volumes.prepared.case(case)["shape"][0] for case in volumes.cases]
    model.eval().segment([volumes[0]])
    segmenting, began = _now(device) - began, _now(device)
    measure_norms(model, data)
    return step, _METRICS * segmenting * sum(slices) / slices[0] + _now(device) - began


def _seconds_per_step(model, data, wrapper, train_cfg, device):
    """Time the step in which most terms act, the last of such, as the loop makes it: captured, where it captures."""
    run, steps = SimpleNamespace(model=model, optim_wrapper=wrapper, seed=0, rank=0), train_cfg.max_iters
    ends = {min(o.end or steps, steps) - 1 for o in model.objectives} | {steps - 1}
    last = max(sorted(ends, reverse=True), key=lambda step: sum(not o.idle(step) for o in model.objectives))
    graph = StepGraph(run, data) if train_cfg.get("graph", True) and why_not(run, data) is None else None
    warm_up = StepGraph.warm_up + 1 if graph else _WARM_UP
    for k in range(warm_up + _TIMED):
        if k == warm_up:
            began = _now(device)
        if graph:
            graph(last)
        else:
            draws = Draws(0, last, 0, device)
            model.train_step(dict(batch=data(draws), draws=draws), optim_wrapper=wrapper)
    return (_now(device) - began) / _TIMED


def _now(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _between(points, steps):
    """Interpolate ``(steps, rate)`` points, both logarithmic; constant beyond them."""
    (before, low), *rest = points
    if steps <= before:
        return low
    for after, high in rest:
        if steps <= after:
            share = math.log(steps / before) / math.log(after / before)
            return math.exp((1 - share) * math.log(low) + share * math.log(high))
        before, low = after, high
    return low
