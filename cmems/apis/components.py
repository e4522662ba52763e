"""What the sections of a config may hold: the names that components take, with values of the kind that is there."""

import difflib
import inspect
import itertools

import mmengine.registry
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import cmems.registry as registries
from cmems.errors import InputError
from cmems.models.prediction import Prediction

# What is read of a config once its file was: other names at its top are variables of the file.
READ = {*inspect.signature(Runner).parameters, "data_root", "custom_imports", "runner_type", "model_wrapper_cfg"}
READ |= {"find_unused_parameters", "compile", "activation_checkpointing", "efficient_conv_bn_eval", "launcher"}
READ |= {"budget"}
READ -= {"cfg"}
# Sections that are not built by a type, with what stands there where nothing is set.
_PLAIN = {
    "env_cfg": dict(compiled_kernels=True, keep_memory=True, cudnn_benchmark=False, mp_cfg=None, dist_cfg=None,
                    resource_limit=4096),
    "randomness": dict(seed=None, diff_rank_seed=False, deterministic=False),
    "budget": dict(rates=None),
    "train_dataloader.exemplar_slice": dict(case=None, slice=None),
}  # fmt: skip
# What builders take for themselves, by the kind of what they build.
_TAKEN = ((Hook, {"priority"}), (OptimWrapper, {"constructor", "paramwise_cfg"}))
MAPS = (dict, list, tuple)
# What may stand where a value of a kind stood.
_KINDS = (
    (bool, bool, "True or False"),
    ((int, float), (int, float, list, tuple), "a number"),
    (str, (str, list, tuple), "a text"),
    (dict, MAPS, "settings, as key.name=value, or None"),
    ((list, tuple), MAPS, "a list"),
)


def check_components(config):
    """Refuse settings that no component reads.

    Raises:
        InputError: One line per setting, with the nearest that there is.
    """
    problems = []
    for name, section in config.items():
        if name in READ and isinstance(section, MAPS):
            problems += _walk(name, section)
    if problems:
        raise InputError(problems)


# What a train_dataloader has beside its sources.
_DATA_SETTINGS = ("data_root", "exemplar_slice", "exemplar_slices", "labeled_cases", "propagation", "orientation")
_BUILT = ("type", "_scope_", "_delete_")  # of what is built by a type, beside its settings
_LOADERS = ("val_dataloader", "test_dataloader")
# Places where a dict with a type stands, and what it is.
_PARTS = {
    "train_dataloader.propagation": "a label propagation (a dict with a type) or None",
    "train_dataloader.orientation": "an orientation (a dict with a type) or None",
    "optim_wrapper.optimizer": "an optimizer (a dict with a type)",
    **{f"{loader}.dataset": "a data set (a dict with a type)" for loader in _LOADERS},
    **{
        f"{loader}.{part}": "settings (a dict with a type) or None"
        for loader, part in itertools.product(_LOADERS, ("sampler", "batch_sampler", "collate_fn"))
    },
}
# MMEngine's own, by what is built of them: to an unknown name their answers name neither place nor name.
_REGISTRIES = dict(
    sampler=mmengine.registry.DATA_SAMPLERS,
    batch_sampler=mmengine.registry.DATA_SAMPLERS,
    collate_fn=mmengine.registry.FUNCTIONS,
    vis_backends=mmengine.registry.VISBACKENDS,
)


def _walk(path, node):
    """Yield the problems of a section and of all below it."""
    if isinstance(node, (list, tuple)):
        for index, part in enumerate(node):
            if isinstance(part, MAPS):
                yield from _walk(f"{path}.{index}", part)
        return
    known, what = _settings_of(path, node)
    for key, value in node.items():
        if known is not None and key not in known and (key not in _BUILT or key == "type" and what == path):
            near = nearest(key, known)
            if what != path and near.startswith("it has"):  # hardly mistyped: left of what stood there
                near += "; with _delete_=True the dict keeps nothing of the one that it changes"
            yield f"{path}.{key}: {what} has no such setting; {near}"
        elif key == "type" and (kind := _unknown_type(path, value)):
            yield f"{path}.type: expected {kind}, got {value!r}"
        elif (part := _PARTS.get(f"{path}.{key}")) and not _fits(value, part):
            yield f"{path}.{key}: expected {part}, got {value!r}"
        elif path == "train_dataloader" and key not in _DATA_SETTINGS and not _typed(value):
            near = nearest(key, {*node, *_DATA_SETTINGS} - {key})
            yield f"{path}.{key}: expected a source (a dict with a type); {near}"
        elif path == "default_hooks" and value is not None and not _typed(value):
            yield f"{path}.{key}: expected a hook (a dict with a type) or None; {nearest(key, set(node) - {key})}"
        elif key == "interval" and ("hooks" in path) and not (type(value) is int and value > 0):
            yield f"{path}.interval: expected a positive number of steps, got {value!r}"
        elif known and (kind := _wanted_by(known.get(key), value)):
            yield f"{path}.{key}: expected {kind}, got {value!r}"
        elif isinstance(value, MAPS) and not str(key).endswith("_cfg"):  # what layers of mmcv take
            yield from _walk(f"{path}.{key}", value)


def _fits(value, part):
    return _typed(value) or callable(value) or value is None and part.endswith("or None")


def _unknown_type(path, value):
    """Return what was expected where a type names nothing that can be built, else None; of most, builders say so."""
    if callable(value):
        return None
    if not isinstance(value, str) or not value.strip():
        return "a component's name"
    registry = _REGISTRIES.get(path.rstrip(".0123456789").split(".")[-1])
    known = registry is None or callable(registry.get(value))
    return None if known else f"one of MMEngine's or your own {registry.name}s"


def is_section(path):
    """Tell whether settings may stand at a place of a config that are not built by a type; it may be empty."""
    return path in _PLAIN or path == "model.prediction"


def _typed(value):
    return isinstance(value, dict) and "type" in value


def _settings_of(path, node):
    """Return the names that a section may hold, with their defaults, and what it is; None where any may."""
    if path in _PLAIN:
        return _PLAIN[path], path
    if path == "model.prediction":
        return _arguments(Prediction), path
    if path in _LOADERS:
        return {**_arguments(DataLoader), "num_batch_per_epoch": None}, path
    kind = "LogProcessor" if path == "log_processor" else node.get("type")
    if not isinstance(kind, str):
        return None, None
    components = _components(kind)
    if EMAHook in components:  # which takes what its averages take
        components += _components(node.get("ema_type", "ExponentialMovingAverage"))
    names = [_arguments(component) for component in components]
    if not names or None in names:
        return None, kind
    return {k: v for each in names for k, v in each.items()}, kind


def _components(kind):
    """Return what is registered under a name, in whichever registries."""
    found = {}
    for registry in [*vars(registries).values(), *vars(mmengine.registry).values()]:
        if isinstance(registry, mmengine.registry.Registry):
            registry.import_from_location()
            found[registry.module_dict.get(kind)] = None
    return [component for component in found if component is not None]


def _arguments(component):
    """Return the names that a class or function takes, each with what tells the kind of its values, or None: any name.

    Of ours that is the default, or ``inspect.Parameter.empty`` where there is none; of libraries' a default that is a
    number, a switch or numbers in a row, unless the annotation allows None too; of one's own components nothing.
    """
    names = {}
    for cls in inspect.getmro(component) if inspect.isclass(component) else (component,):
        if cls is object:  # none of them takes anything
            break
        if inspect.isclass(cls) and "__init__" not in vars(cls):
            continue
        try:
            parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        except (TypeError, ValueError):
            return None
        ours = cls.__module__.startswith("cmems.")
        known = ours or cls.__module__.startswith(("mmengine.", "torch."))
        for p in parameters:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                names.setdefault(p.name, (p.default if ours else _plain_default(p)) if known else None)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        # Else the rest is its parent's, as far as is known of ours and MMEngine's.
        if not ours and not cls.__module__.startswith("mmengine."):
            return None
    else:
        return None
    names.pop("self", None)
    for base, more in _TAKEN:
        if inspect.isclass(component) and issubclass(component, base):
            names.update(dict.fromkeys(more))
    return names


def _plain_default(parameter):
    default, annotation = parameter.default, str(parameter.annotation)
    if "Optional" in annotation or "None" in annotation:
        return None
    if isinstance(default, tuple) and default and all(isinstance(each, (int, float)) for each in default):
        return _Row(default)
    return default if isinstance(default, (int, float)) else None


class _Row(tuple):
    """Numbers by default: as many are expected."""


def wanted(old, new):
    """Return what was expected where a value is of another kind than the one that it replaces, else None."""
    if isinstance(old, (list, tuple)) and isinstance(new, dict):
        fits = all(str(key).isdecimal() and int(key) < len(old) for key in new)
        return None if fits else "a list" + f", or settings of its parts by number, below {len(old)}" * bool(old)
    listed = [each for each in (old, new) if isinstance(each, (list, tuple)) and len(each)]
    if len(listed) == 2 and all_dicts(old) and not all_dicts(new):
        return "a list of dicts, \"[{'type': …}]\""
    for kind, allowed, name in _KINDS:
        if isinstance(old, kind):
            fits = isinstance(new, allowed) and (kind is bool or not isinstance(new, bool))
            return None if new is None or fits else name
    return None


def _wanted_by(default, value):
    """Return what a component expected where a value is not of the kind that its default tells, else None."""
    if default is inspect.Parameter.empty:
        return "a value" if value is None else None
    if isinstance(default, _Row):
        row = isinstance(value, (list, tuple)) and len(value) == len(default)
        fits = row and all(isinstance(each, (int, float)) for each in value)
        return None if fits else f"{len(default)} numbers"
    if isinstance(default, (int, float)) and isinstance(value, (list, tuple)):
        return next(name for kind, _, name in _KINDS if isinstance(default, kind))
    if value is None and not isinstance(default, (str, dict)):  # which of a text or settings may mean "none"
        return next((name for kind, _, name in _KINDS if isinstance(default, kind)), None)
    return wanted(default, value)


def all_dicts(parts):
    """Tell whether a list is one of settings."""
    return all(isinstance(part, dict) for part in parts)


def nearest(name, known):
    """Return, for a message, what a wrong name may mean, or else all that there are."""
    near = difflib.get_close_matches(str(name), map(str, known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(sorted(map(str, known)))}"
