"""Looking at what a config built, before the first step: each mistake ends in one line that names its section."""

import copy
import difflib
import math
import os
import re
import sys
from collections import defaultdict
from contextlib import contextmanager, suppress
from itertools import chain, islice

import torch
import torch.fx
from mmengine.dist import is_distributed
from mmengine.optim import OptimWrapperDict
from torch.utils.data import DataLoader, IterableDataset

from cmems.errors import InputError

_PARAMWISE = ("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult",
              "flat_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate")  # fmt: skip
_WORKERS = 64  # that read cases, on a machine of few processors


@contextmanager
def told(section):
    """Say what building a section of a config raises as the config's mistake, which it nearly always is.

    Raises:
        InputError: In the place of what was raised.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError, ImportError,
            NotImplementedError, re.error) as error:  # fmt: skip
        text = (str(error).strip() or "no reason given").splitlines()[-1]
        raise InputError(f"{section}: {text} ({type(error).__name__})") from error


def check_optimizer(wrapper):
    """Refuse what optimisers take and no step can be made by.

    Args:
        wrapper (OptimWrapper | OptimWrapperDict): As built.

    Raises:
        InputError: A learning rate, or another number, is not finite, or gradients cannot be clipped as asked.
    """
    for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        if type(count := getattr(each, "_accumulative_counts", 1)) is not int:
            raise InputError(f"optim_wrapper.accumulative_counts: expected a positive integer, got {count!r}")
        for group in each.param_groups:
            for name, value in group.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise InputError(f"optim_wrapper.optimizer.{name}: expected a finite number, got {value}")
        _check_step(each.optimizer)
        if each.clip_grad_kwargs:
            weight = torch.zeros(1)
            weight.grad = torch.zeros(1)
            with told("optim_wrapper.clip_grad"):  # which is read at the first step alone
                each.clip_func([weight], **each.clip_grad_kwargs)
                for key in {"max_norm", "clip_value"} & set(each.clip_grad_kwargs):
                    if not each.clip_grad_kwargs[key] > 0:
                        raise InputError(
                            f"optim_wrapper.clip_grad.{key}: expected a number of more than 0, "
                            f"got {each.clip_grad_kwargs[key]!r}"
                        )


def check_paramwise(settings, model):
    """Refuse what a ``paramwise_cfg`` of MMEngine's constructor does not have, and parameters that a model has not.

    Args:
        settings (dict): An ``optim_wrapper``; one with a constructor of one's own is left to that.
        model (nn.Module): Whose parameters.

    Raises:
        InputError: A key changes nothing.
    """
    paramwise, where = settings.get("paramwise_cfg"), "optim_wrapper.paramwise_cfg"
    if settings.get("constructor", "DefaultOptimWrapperConstructor") != "DefaultOptimWrapperConstructor":
        return
    if not isinstance(paramwise, dict):
        return  # which its constructor refuses, unless it is None
    if odd := [key for key in paramwise if key not in _PARAMWISE]:
        near = difflib.get_close_matches(str(odd[0]), _PARAMWISE, n=1) or _PARAMWISE
        raise InputError(f"{where}.{odd[0]}: no such setting; expected {', '.join(near)}")
    keys, names = paramwise.get("custom_keys") or {}, [name for name, _ in model.named_parameters()]
    for key, changes in keys.items() if isinstance(keys, dict) else ():
        if not any(key in name for name in names):
            near = difflib.get_close_matches(key, {part for n in names for part in n.split(".")}, n=3) or names[:2]
            raise InputError(f"{where}.custom_keys: {key!r} is in no parameter's name, as {', '.join(near)} are")
        if not isinstance(changes, dict):
            raise InputError(f"{where}.custom_keys.{key}: expected settings, e.g. dict(lr_mult=0.1), got {changes!r}")


def _check_step(optimizer):
    """Refuse an optimiser of torch that cannot step by a gradient alone, by a step of a copy."""
    kind, group = type(optimizer), optimizer.param_groups[0]
    if not kind.__module__.startswith("torch.optim."):  # others may need what a copy has not
        return
    weight = torch.zeros_like(group["params"][0].flatten()[:1])
    weight.grad = torch.zeros_like(weight)
    trial = copy.copy(optimizer)
    trial.state, trial.param_groups = defaultdict(dict), [{**group, "params": [weight]}]
    try:
        with suppress(LookupError):  # of a state that some make when they are built
            trial.step()
    except (TypeError, RuntimeError) as error:  # of a closure that it wants, or of gradients that are not sparse
        text = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(f"optim_wrapper.optimizer: {kind.__name__} cannot train networks: {text}") from error


def check_schedules(schedulers):
    """Refuse schedules that never act, or that raise what they should lower.

    Args:
        schedulers (iterable): MMEngine's, as built.

    Raises:
        InputError: One counts epochs, of which a training has none; it begins, ends or falls at no step; or its lowest
            value, its factor or its power is none.
    """
    for each in schedulers:
        if getattr(each, "need_val_args", False):  # it acts after validations
            continue
        if not all(isinstance(number, int) for number in (each.begin, each.end)):
            raise InputError(
                f"param_scheduler: expected begin and end in steps, integers, got {each.begin!r} and {each.end!r}"
            )
        if each.by_epoch:
            raise InputError(f"param_scheduler.by_epoch: expected False, as steps are counted, got {each.by_epoch!r}")
        if odd := [step for step in getattr(each, "milestones", ()) if type(step) is not int or step < 0]:
            raise InputError(f"param_scheduler.milestones: expected steps, integers of 0 or more, got {odd[0]!r}")
        if type(size := getattr(each, "step_size", 1)) is not int or size < 1:
            raise InputError(f"param_scheduler.step_size: expected a positive integer, got {size!r}")
        if not getattr(each, "gamma", 1) > 0:
            raise InputError(f"param_scheduler.gamma: expected a number of more than 0, got {each.gamma!r}")
        for name, most in (("eta_min", min(each.base_values)), ("eta_min_ratio", 1), ("power", sys.float_info.max)):
            value = getattr(each, name, None)
            if value is not None and not 0 <= value <= most:
                upper = f"{most:g}, where {each.param_name} begins" if name == "eta_min" else f"{most:g}"
                raise InputError(f"param_scheduler.{name}: expected a number from 0 to {upper}, got {value!r}")


def check_model(model, config):
    """Refuse a model that checkpoints cannot hold, and names of modules that are none.

    Args:
        model (nn.Module): Not wrapped.
        config (Config): ``activation_checkpointing`` and ``efficient_conv_bn_eval`` name modules, or are None.

    Raises:
        InputError: Its state holds more than tensors; a module is missing, has no ``forward`` or cannot be traced.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):  # by get_extra_state
            kind = type(value).__name__
            raise InputError(f"model: expected weights and buffers, which checkpoints keep, got {name}, of kind {kind}")
    modules = dict(model.named_modules())
    for key in ("activation_checkpointing", "efficient_conv_bn_eval"):
        for name in config.get(key) or ():
            if name not in modules:
                known = difflib.get_close_matches(name, modules, n=3, cutoff=0.3) or list(modules)[1:4]
                raise InputError(f"{key}: expected modules of the model, as {', '.join(known)}, got {name!r}")
            if "_forward_unimplemented" in str(getattr(modules[name], "forward", None)):
                inner = next((f", as {name}.{each}" for each, _ in modules[name].named_children()), "")
                raise InputError(f"{key}: {name} only holds other modules; name one of them{inner}")
            if key == "efficient_conv_bn_eval":
                try:
                    torch.fx.symbolic_trace(modules[name])
                except Exception as error:  # whatever its forward does with what stands for a tensor
                    text = (str(error).strip() or "no reason given").splitlines()[0][:200]
                    raise InputError(
                        f"{key}: {name}, a {type(modules[name]).__name__}, cannot be traced: {text} "
                        f"({type(error).__name__})"
                    ) from error


def check_measured(loop, name):
    """Return a loop of validation or test; refuse one that measures nothing, or not each case once.

    Args:
        loop (BaseLoop): As built.
        name (str): ``val`` or ``test``.

    Raises:
        InputError: It has no metric, its batches are not of every case, or it would start more processes than help.
    """
    if not getattr(getattr(loop, "evaluator", None), "metrics", True):
        raise InputError(f"{name}_evaluator: expected one or more metrics, got none")
    loader = getattr(loop, "dataloader", None)
    names = [each.convention["metric"] for each in loop.evaluator.metrics if hasattr(each, "convention")]
    if twice := [each for each in dict.fromkeys(names) if names.count(each) > 1]:
        raise InputError(f"{name}_evaluator: expected each metric once, got {', '.join(twice)} more than once")
    if not isinstance(loader, DataLoader):
        return loop
    for key, least in (("num_workers", 0), ("prefetch_factor", 1)):
        if (value := getattr(loader, key)) is not None and (type(value) is not int or value < least):
            raise InputError(f"{name}_dataloader.{key}: expected an integer of {least} or more, got {value!r}")
    if isinstance(loader.dataset, IterableDataset):
        return loop
    if loader.batch_sampler is None:
        raise InputError(f"{name}_dataloader.batch_size: expected a positive integer, got None")
    if loader.drop_last or getattr(loader.batch_sampler, "drop_last", False):
        raise InputError(f"{name}_dataloader.drop_last: expected False, as every case is measured, got True")
    most = max(_WORKERS, 4 * (os.cpu_count() or 1))
    if loader.num_workers > most:  # each is a process, and all of them begin before the first case is read
        raise InputError(f"{name}_dataloader.num_workers: expected at most {most}, got {loader.num_workers}")
    cases = len(loader.dataset)
    if not is_distributed():  # else each process has its share
        with torch.random.fork_rng(devices=[]):
            drawn = list(chain(*islice(loader.batch_sampler, cases + 1)))
        if sorted(drawn) != list(range(cases)):
            raise InputError(
                f"{name}_dataloader: expected a sampler that draws each of the {cases} cases once, as DefaultSampler, "
                f"got one that draws {len(set(drawn))} of them in {len(drawn)} draws"
            )
    return loop
