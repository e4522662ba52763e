"""Reading a config, with every mistake in one readable line."""

import ast
import copy
import difflib
import inspect
import json
import os
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import mmengine.registry
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import cmems.registry as registries
from cmems.apis.launcher import LAUNCHERS
from cmems.apis.places import find_config
from cmems.datasets.prepared import file_sha256
from cmems.errors import InputError, warn_once

# What is read of a config once its file was: other names at its top are variables of the file.
_READ = {*inspect.signature(Runner).parameters, "data_root", "custom_imports", "runner_type", "model_wrapper_cfg"}
_READ |= {"find_unused_parameters", "compile", "activation_checkpointing", "efficient_conv_bn_eval", "launcher"}
_READ |= {"budget"}
_READ -= {"cfg"}
# Where data_root acts, unless something else is set there.
_DATA_PLACES = ("train_dataloader.data_root", "val_dataloader.dataset.data_root", "test_dataloader.dataset.data_root")
_OF_TRAINING = {"train_cfg", "optim_wrapper", "param_scheduler", "val_cfg", "val_dataloader", "val_evaluator", "budget"}
# Sections that are not built by a type, with what stands there where nothing is set.
_PLAIN = {
    "env_cfg": dict(compiled_kernels=True, keep_memory=True, cudnn_benchmark=False, mp_cfg=None, dist_cfg=None,
                    resource_limit=4096),
    "randomness": dict(seed=None, diff_rank_seed=False, deterministic=False),
    "budget": dict(rates=None),
    "train_dataloader.exemplar_slice": dict(case=None, slice=None),
}  # fmt: skip
_SECTIONS = ("model", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg",
             "optim_wrapper", "default_hooks", "env_cfg", "randomness", "visualizer", "budget")  # fmt: skip
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CHOICES = dict(resume=(True, False), launcher=LAUNCHERS, log_level=_LEVELS)
# Which are texts, be they numbers: a folder may be called 2024.
_TEXTS = ("data_root", "work_dir", "load_from", "experiment_name", "folder", "out", "out_dir")
# What a runner of MMEngine reads and a config does not set here, with what does.
_ELSEWHERE = dict(launcher="cmems train --launcher starts processes", compile="model.compile=True compiles networks")
# What builders take for themselves, by the kind of what they build.
_TAKEN = ((Hook, {"priority"}), (OptimWrapper, {"constructor", "paramwise_cfg"}),
          (_ParamScheduler, {"convert_to_iter_based", "epoch_length"}))  # fmt: skip
_MAPS = (dict, list, tuple)
# What may stand where a value of a kind stood.
_KINDS = (
    (bool, bool, "True or False"),
    ((int, float), (int, float, list, tuple), "a number"),
    (str, (str, list, tuple), "a text"),
    (dict, _MAPS, "settings, as key.name=value, or None"),
    ((list, tuple), _MAPS, "a list"),
)


_WHOLE = "{'_delete_': True, …}"


class Texts(dict):
    """Options as they were typed: a text is read as what the config has under its key."""


def load_config(path, options=None, needs=(), trains=True):
    """Read a Python-file config; modules that its ``custom_imports`` names are found beside it too.

    Args:
        path (str): The config, as :func:`find_config` takes it.
        options (dict | None): Values to set, keys dotted: ``{"train_cfg.max_iters": 100}``.
        needs (sequence[str]): Dotted keys that must be set.
        trains (bool): The config is to be trained; else it is warned of options that training alone reads.

    Raises:
        InputError: No such file, a mistake in it, an option or a setting that nothing reads, or a need that is not met.
        OSError: The system's folder of temporary files takes no copy of it.
    """
    path = find_config(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file there hides a package
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # by which MMEngine finds a package
            config = Config.fromfile(str(path), lazy_import=False)
    except InputError:
        raise
    except ImportError as error:
        while error.__context__:  # MMEngine wraps it in all of sys.path
            error = error.__context__
        raise InputError(
            f"config {path}: {type(error).__name__}: {error}; put a module of custom_imports beside it, or install it"
        ) from error
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise InputError(f"config {path}: {type(error).__name__}: {error}") from error
        # MMEngine reads configs through copies.
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
    except (Exception, SystemExit) as error:  # a config is Python: whatever it raises is the user's to mend
        raise InputError(f"config {path}: {type(error).__name__}: {error}") from error
    # Written for machines and people who compare runs: laying the text out with yapf took seconds of every start.
    config = Config(config._cfg_dict, config.text, config.filename, config.env_variables, format_python_code=False)
    _drop_scope(config._cfg_dict)
    for name in [name for name in config if name.startswith("_")]:  # for the config files that build on it alone
        del config._cfg_dict[name]
    for name in config:
        near = difflib.get_close_matches(name, _READ, n=1, cutoff=0.8)
        if name not in _READ and near:
            raise InputError(f"config {path}: nothing reads '{name}'; did you mean {near[0]}?")
    if any(key.split(".")[0] == "custom_imports" for key in options or {}):
        raise InputError(
            "--cfg-options custom_imports: modules are imported as the config's file is read; set it there"
        )
    set_options(config, options or {})
    idle = [] if trains else [key for key in options or {} if key.split(".")[0] in _OF_TRAINING]
    if idle:
        warn_once(f"--cfg-options {', '.join(idle)}: read by training alone, which this is not")
    missing = [key for key in needs if value_at(config, key) is None]
    if missing:
        advice = "the config that a test leaves in its work directory lacks what it had no use for: name that one's own"
        if missing[0].endswith("data_root"):
            advice = f"{advice}; where no data set was named, --cfg-options data_root=DATA names one"
        raise InputError(f"config {path}: {missing[0]} is not set; {advice}")
    return config


def value_at(config, key):
    """Return what a config has at a dotted key, or None."""
    node = config._cfg_dict
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def value_typed(options, key):
    """Return what options of :func:`load_config` set at a dotted key, be it with a section around it, or None."""
    read = (lambda text: _read_text(text, None)) if isinstance(options, Texts) else copy.deepcopy
    given = Config()
    given.merge_from_dict({name: read(value) for name, value in (options or {}).items()})
    return value_at(given, key)


def _drop_scope(node):
    """Drop the mark that MMEngine leaves on what ``cmems::`` brought: it is everyone's scope, and so says nothing."""
    if isinstance(node, dict) and node.get("_scope_") == "cmems":
        del node["_scope_"]
    for part in node.values() if isinstance(node, dict) else node:
        if isinstance(part, _MAPS):
            _drop_scope(part)


def set_options(config, options):
    """Set dotted keys of a config that was read; ``data_root`` sets that of training, validation and test.

    Returns:
        dict: The options as they were understood, with what ``data_root`` set.

    Raises:
        InputError: An option that nothing reads, or of another kind than what it replaces; or a setting of a component
            that does not have it.
    """
    understood = {}
    for key, value in options.items():
        old = _look_up(config, key)
        if isinstance(options, Texts):
            value = _read_text(value, "" if old is None and key.split(".")[-1] in _TEXTS else old)
        if _wanted(old, value):
            raise InputError(f"--cfg-options {key}: expected {_wanted(old, value)}, got {value!r}")
        if old and isinstance(value, dict) and not value:
            raise InputError(
                f"--cfg-options {key}: {{}} changes nothing: settings are merged; {_WHOLE} puts others there"
            )
        understood[key] = value
    if "data_root" in understood:
        understood = {**{k: understood["data_root"] for k in _DATA_PLACES if _has(config, k)}, **understood}
    try:
        config.merge_from_dict(copy.deepcopy(understood))  # which takes words out of what it merges
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"--cfg-options {', '.join(understood)}: cannot be merged with what is there: {error} "
            f"({type(error).__name__}); {_WHOLE} puts other settings there"
        ) from error
    _check_top(config)
    for place in _DATA_PLACES if config.get("data_root") else ():
        section = _has(config, place)
        if section is not None:
            section.setdefault("data_root", config.data_root)
    check_components(config)
    return understood


def _check_top(config):
    """Refuse sections that are none, and words that are not among those to choose from."""
    for name in _SECTIONS:
        if not isinstance(config.get(name), (dict, type(None))):
            raise InputError(f"{name}: expected settings (a dict) or None, got {config[name]!r}")
    if config.get("compile"):
        raise InputError(f"compile: expected None, got {config.compile!r}; {_ELSEWHERE['compile']}")
    for name, known in _CHOICES.items():
        if config.get(name) is not None and config[name] not in known:
            raise InputError(f"{name}: expected {' or '.join(map(str, known))}, got {config[name]!r}")
    for name in (*_TEXTS[:4], *_DATA_PLACES):
        if not isinstance(value := value_at(config, name), (str, os.PathLike, type(None))):
            raise InputError(f"{name}: expected a text, got {value!r}")
    for name, single in (("param_scheduler", True), ("custom_hooks", False)):
        value = config.get(name) or []
        parts = [value] if single and isinstance(value, dict) else value
        if not (
            isinstance(parts, (list, tuple)) and all(isinstance(each, (dict, Hook, _ParamScheduler)) for each in parts)
        ):
            raise InputError(f"{name}: expected a list of settings (dicts with a type), got {value!r}")
    for name in ("activation_checkpointing", "efficient_conv_bn_eval"):
        value = config.get(name) or []
        if not (isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)):
            raise InputError(f"{name}: expected a list of modules' names, got {value!r}")
    if (config.get("randomness") or {}).get("diff_rank_seed"):
        raise InputError(
            "randomness.diff_rank_seed: expected False, as processes draw their parts of one batch, got True"
        )
    scaled = config.get("auto_scale_lr")
    if scaled and (not isinstance(scaled, dict) or scaled.get("enable")):
        raise InputError(f"auto_scale_lr: expected None, got {scaled!r}; optim_wrapper.optimizer.lr is the rate")


def count_steps(config):
    """Turn an objective's ``ramp_up``, ``begin`` and ``end`` below 1, shares of the training, into steps.

    Raises:
        InputError: A share is not in [0, 1], or an objective is no dict.
    """
    steps = (config.get("train_cfg") or {}).get("max_iters")
    objectives = (config.get("model") or {}).get("objectives") or []
    if not (isinstance(objectives, (list, tuple)) and _all_dicts(objectives)):
        raise InputError(f"model.objectives: expected a list of dicts, each with a type, got {objectives!r}")
    for objective in objectives:
        begin, end = objective.get("begin", 0), objective.get("end")
        if type(begin) is type(steps) is int and (begin >= steps or type(end) is int and end <= begin):
            kind = f"{objective.get('type')}: begin={begin}" + f", end={end}" * (end is not None)
            warn_once(f"model.objectives: {kind}: in {steps} steps it never acts")
        for key in ("ramp_up", "begin", "end"):
            if isinstance(objective.get(key), float) and isinstance(steps, int):
                if not 0 <= objective[key] <= 1:
                    raise InputError(
                        f"model.objectives: {key}: expected steps (an integer) or a share of them in [0, 1], "
                        f"got {objective[key]}"
                    )
                objective[key] = round(objective[key] * steps)


def run_settings(config, data, masks):
    """Return what makes a run the run it is, in plain values: networks, batches, optimiser, schedule, seed and data.

    Where data and masks lie, how long training goes, and what watches it are left out.

    Args:
        config (Config): After :func:`count_steps`.
        data (str): What the data set's content is known by.
        masks (dict[str, str]): What the masks of sources are known by.
    """
    content = config._cfg_dict.to_dict()
    settings = {k: content.get(k) for k in ("model", "train_dataloader", "optim_wrapper", "param_scheduler")}
    settings["train_dataloader"] = {k: v for k, v in settings["train_dataloader"].items() if k != "data_root"}
    for name, known in masks.items():
        source = {k: v for k, v in settings["train_dataloader"][name].items() if k != "folder"}
        settings["train_dataloader"][name] = dict(source, masks=known)
    settings.update(seed=(content.get("randomness") or {}).get("seed"), data=data)
    if known := weights_content(content.get("load_from")):
        settings["load_from"] = known
    # What a checkpoint's statistics are measured by; named nowhere, it is the hook with its defaults.
    settings["precise_norm"] = (content.get("default_hooks") or {}).get("precise_norm", dict(type="PreciseNormHook"))
    return json.loads(json.dumps(settings, default=str))


def weights_content(path):
    """Return what the weights that a run begins with are known by, wherever they lie; None of none."""
    return file_sha256(path)[:16] if path and Path(path).is_file() else None


def check_components(config):
    """Refuse settings that no component reads.

    Raises:
        InputError: One line per setting, with the nearest that there is.
    """
    problems = []
    for name, section in config.items():
        if name in _READ and isinstance(section, _MAPS):
            problems += _walk(name, section)
    if problems:
        raise InputError(problems)


# What a train_dataloader has beside its sources.
_DATA_SETTINGS = ("data_root", "exemplar_slice", "exemplar_slices", "labeled_cases", "propagation", "orientation")
_PARTS = dict(propagation="a label propagation", orientation="an orientation")


def _walk(path, node):
    """Yield the problems of a section and of all below it."""
    if isinstance(node, (list, tuple)):
        for index, part in enumerate(node):
            if isinstance(part, _MAPS):
                yield from _walk(f"{path}.{index}", part)
        return
    known, what = _settings_of(path, node)
    for key, value in node.items():
        if known is not None and key not in known and key not in ("type", "_scope_", "_delete_"):
            yield f"{path}.{key}: {what} has no such setting; {_nearest(key, known)}"
        elif path == "train_dataloader" and key not in _DATA_SETTINGS and not _typed(value):
            near = _nearest(key, {*node, *_DATA_SETTINGS} - {key})
            yield f"{path}.{key}: expected a source (a dict with a type); {near}"
        elif path == "train_dataloader" and key in _PARTS and value is not None and not _typed(value):
            yield f"{path}.{key}: expected {_PARTS[key]} (a dict with a type) or None, got {value!r}"
        elif path == "default_hooks" and value is not None and not _typed(value):
            yield f"{path}.{key}: expected a hook (a dict with a type) or None; {_nearest(key, set(node) - {key})}"
        elif key == "interval" and ("hooks" in path) and not (type(value) is int and value > 0):
            yield f"{path}.interval: expected a positive number of steps, got {value!r}"
        elif known and (wanted := _wanted_by(known.get(key), value)):
            yield f"{path}.{key}: expected {wanted}, got {value!r}"
        elif isinstance(value, _MAPS) and not str(key).endswith("_cfg"):  # what layers of mmcv take
            yield from _walk(f"{path}.{key}", value)


def _typed(value):
    return isinstance(value, dict) and "type" in value


def _settings_of(path, node):
    """Return the names that a section may hold, with their defaults, and what it is; None where any may."""
    if path in _PLAIN:
        return _PLAIN[path], path
    if path in ("val_dataloader", "test_dataloader"):
        return {**_arguments(DataLoader), "num_batch_per_epoch": None}, "a data loader"
    kind = "LogProcessor" if path == "log_processor" else node.get("type")
    if not isinstance(kind, str):
        return None, None
    names = [_arguments(component) for component in _components(kind.removeprefix("cmems."))]
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


def _look_up(config, dotted):
    """Return what a dotted key holds, or None; refuse one whose sections do not exist, or that nothing reads."""
    node, parts = config, dotted.split(".")
    name = parts[0]
    if name in _ELSEWHERE:
        raise InputError(f"--cfg-options {dotted}: it acts from no config; {_ELSEWHERE[name]}")
    if name not in _READ and (name in config or len(parts) == 1):
        places = [f"{k}.{dotted}" for k, v in config.items() if isinstance(v, dict) and name in v and k in _READ]
        hint = f"did you mean {' or '.join(places)}?" if places else _nearest(dotted, _READ)
        raise InputError(f"--cfg-options {dotted}: nothing reads it; {hint}")
    for depth, part in enumerate(parts):
        where = ".".join(parts[: depth + 1])
        if isinstance(node, (list, tuple)):
            if not (part.isdecimal() and int(part) < len(node)):
                start = ".".join(parts[:depth])
                raise InputError(
                    f"--cfg-options {dotted}: '{start}' is a list; expected {start}.N, N from 0 to {len(node) - 1}"
                )
            node = node[int(part)]
        elif not hasattr(node, "keys"):
            raise InputError(f"--cfg-options {dotted}: '{'.'.join(parts[:depth])}' is {node!r}, which has no keys")
        elif part in node:
            node = node[part]
        elif depth == len(parts) - 1:
            return None
        else:
            near = difflib.get_close_matches(part, list(node), n=3)
            raise InputError(
                f"--cfg-options {dotted}: the config has no '{where}'"
                + (f"; did you mean {' or '.join(near)}?" if near else f"; it has: {', '.join(node)}")
            )
    return node


def _has(config, dotted):
    """Return the section that holds the last of a dotted key, if it is one that reads data, else None."""
    node = config
    for part in dotted.split(".")[:-1]:
        node = node.get(part) if isinstance(node, dict) or node is config else None
        if not isinstance(node, dict):
            return None
    reads = dotted.startswith("train") or "data_root" in node or node.get("type") == "VolumeDataset"
    return node if reads else None


def _read_text(text, old):
    """Read what was typed: where the config has a text, it is one, be it ``nan``, ``005`` or a path with spaces."""
    bare = text.strip("'\"")
    if isinstance(old, str) and bare != "None" and not bare.startswith(("[", "(")):
        return bare
    if text.lstrip().startswith(("[", "(", "{")):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(text.strip())
            if isinstance(value, (list, tuple, dict)):
                return value
    try:
        return DictAction._parse_iterable(text)
    except AssertionError as error:
        raise InputError(f"--cfg-options: {error}") from error


def _wanted(old, new):
    """Return what was expected where a value is of another kind than the one that it replaces, else None."""
    if isinstance(old, (list, tuple)) and isinstance(new, dict):
        fits = all(str(key).isdecimal() and int(key) < len(old) for key in new)
        return None if fits else "a list" + f", or settings of its parts by number, below {len(old)}" * bool(old)
    listed = [each for each in (old, new) if isinstance(each, (list, tuple)) and len(each)]
    if len(listed) == 2 and _all_dicts(old) and not _all_dicts(new):
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
    if value is None and not isinstance(default, (str, dict)):  # which of a text or settings may mean "none"
        return next((name for kind, _, name in _KINDS if isinstance(default, kind)), None)
    return _wanted(default, value)


def _all_dicts(parts):
    return all(isinstance(part, dict) for part in parts)


def _nearest(name, known):
    near = difflib.get_close_matches(str(name), map(str, known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(sorted(map(str, known)))}"
