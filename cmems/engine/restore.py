"""Putting a checkpoint's state into a model, an optimiser and schedules, after a look at whether it is theirs."""

import copy
from numbers import Real

import torch

from cmems.errors import InputError


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
        seen += [f"{k}: expected {kind(own[k])}, got {kind(saved[k])}" for k in shapes[:1]]
        if any(str(k).startswith("teachers.ema.") for k in missing[:1] + extra[:1]):
            seen.append("averages of weights come with model.prediction.averaged=True or an objective's teacher='ema'")
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
        # Switches (fused, capturable, maximize) are the config's and the device's, whatever the file says.
        switches = [{k: v for k, v in g.items() if v is None or isinstance(v, bool)} for g in optimizer.param_groups]
        groups = [{**group, **own} for group, own in zip(saved["param_groups"], switches, strict=True)]
        saved = dict(saved, param_groups=groups)
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
            return f"{strange[0]}: expected {kind(own[strange[0]])}, got {kind(group[strange[0]])}"
    if steps and expected["state"] and not state:
        return "it is empty"
    for index, entry in state.items():
        own = expected["state"].get(index)
        if own is None or not isinstance(entry, dict) or own.keys() != entry.keys():
            return f"parameter {str(index)[:20]}: expected {_names(own)}, got {_names(entry)}"
        strange = [k for k in own if not _alike(own[k], entry[k])]
        if strange:
            key = strange[0]
            return f"parameter {index}, {key}: expected {kind(own[key])}, got {kind(entry[key])}"
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


def kind(value):
    """Name what a value is: a tensor's shape and type, or a type."""
    if torch.is_tensor(value):
        return f"shape {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _names(entry):
    return ", ".join(str(k)[:40] for k in list(entry)[:12]) if isinstance(entry, dict) else type(entry).__name__


def summarise(model):
    """Describe networks, a learner's or by themselves, in one line."""
    networks = model if isinstance(model, torch.nn.ModuleList) else getattr(model, "networks", [])
    kinds = ", ".join(f"{type(n).__name__}({getattr(n, 'num_classes', 'unknown')} classes)" for n in networks)
    return f"{len(networks)} network(s): {kinds}"
