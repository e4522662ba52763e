"""Reading a config, with every mistake in one readable line."""

import ast
import copy
import difflib
import json
import os
import sys
import tempfile
import warnings
from contextlib import suppress
from itertools import chain
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.optim import _ParamScheduler

from cmems.apis.components import MAPS, READ, all_dicts, check_components, is_section, nearest, wanted
from cmems.apis.launcher import LAUNCHERS
from cmems.apis.places import check_modules, find_config
from cmems.datasets.prepared import file_sha256
from cmems.engine.runner import OWN_HOOKS
from cmems.errors import InputError, warn_once

# Where data_root acts, unless something else is set there.
_DATA_PLACES = ("train_dataloader.data_root", "val_dataloader.dataset.data_root", "test_dataloader.dataset.data_root")
_OF_TRAINING = {"train_cfg", "optim_wrapper", "param_scheduler", "val_cfg", "val_dataloader", "val_evaluator", "budget"}
_SECTIONS = ("model", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg",
             "optim_wrapper", "default_hooks", "env_cfg", "randomness", "visualizer", "budget",
             "log_processor")  # fmt: skip
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CHOICES = dict(resume=(True, False), launcher=LAUNCHERS, log_level=_LEVELS)
# Which are texts, be they numbers: a folder may be called 2024.
_TEXTS = ("data_root", "work_dir", "load_from", "experiment_name", "folder", "out", "out_dir")
# What a runner of MMEngine reads and a config does not set here, with what does.
_ELSEWHERE = dict(launcher="cmems train --launcher starts processes", compile="model.compile=True compiles networks")
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
        InputError: No such file, a mistake in it, an option or a setting that nothing reads, or a need that is not met;
            or a module beside it that was loaded from elsewhere.
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
    check_modules(config)
    # Written for machines and people who compare runs: laying the text out with yapf took seconds of every start.
    config = Config(config._cfg_dict, config.text, config.filename, config.env_variables, format_python_code=False)
    _drop_scope(config._cfg_dict)
    for name in [name for name in config if name.startswith("_")]:  # for the config files that build on it alone
        del config._cfg_dict[name]
    for name in config:
        near = difflib.get_close_matches(name, READ, n=1, cutoff=0.8)
        if name not in READ and near:
            raise InputError(f"config {path}: nothing reads '{name}'; did you mean {near[0]}?")
    if any(key.split(".")[0] == "custom_imports" for key in options or {}):
        raise InputError(
            "--cfg-options custom_imports: modules are imported as the config's file is read; set it there"
        )
    set_options(config, options or {})
    idle = [] if trains else [key for key in options or {} if key.split(".")[0] in _OF_TRAINING]
    if idle:
        warn_once(f"--cfg-options {', '.join(idle)}: read by training alone, which this is not")
    need_set(config, needs, path)
    return config


def need_set(config, needs, path):
    """Raise InputError where a config lacks one of dotted keys; ``path`` is its file."""
    missing = [key for key in needs if value_at(config, key) is None]
    if missing:
        advice = "the config that a test leaves in its work directory lacks what it had no use for: name that one's own"
        if missing[0].endswith("data_root"):
            advice = f"{advice}; where no data set was named, --cfg-options data_root=DATA names one"
        raise InputError(f"config {path}: {missing[0]} is not set; {advice}")


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


def _drop_scope(node, name=None):
    """Drop our scope, which is everyone's: what ``cmems::`` leaves on what it brought, and that of ``cmems.TYPE``."""
    if isinstance(node, dict):
        if node.get("_scope_") == "cmems":
            del node["_scope_"]
        if isinstance(node.get("type"), str) and name != "collate_fn":  # which MMEngine looks for in no scope
            node["type"] = node["type"].removeprefix("cmems.")
    for key, part in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(part, MAPS):
            _drop_scope(part, key)


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
        section, _, name = key.rpartition(".")
        hooks = {*(config.get("default_hooks") or ()), *OWN_HOOKS}
        if section == "default_hooks" and value is None and name not in hooks:
            raise InputError(f"--cfg-options {key}: there is no such hook; {nearest(name, hooks)}")
        if wanted(old, value):
            raise InputError(f"--cfg-options {key}: expected {wanted(old, value)}, got {value!r}")
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
    _drop_scope(config._cfg_dict)
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


def count_steps(config, laid_out=None):
    """Turn an objective's ``ramp_up``, ``begin`` and ``end`` below 1, shares of the training, into steps.

    Args:
        config (Config): Changed in place.
        laid_out (int | None): Of how many steps the run first was that goes on: terms act where they would have then,
            however long it goes on; but what ended with it, ends with it.

    Raises:
        InputError: A share is not in [0, 1], an objective is no dict, or none acts at a step.
    """
    steps = (config.get("train_cfg") or {}).get("max_iters")
    objectives = (config.get("model") or {}).get("objectives") or []
    if not (isinstance(objectives, (list, tuple)) and all_dicts(objectives)):
        raise InputError(f"model.objectives: expected a list of dicts, each with a type, got {objectives!r}")
    acting = []
    for objective in objectives:
        given = ", ".join(f"{key}={objective[key]}" for key in ("begin", "end") if objective.get(key) is not None)
        for key in ("ramp_up", "begin", "end"):
            if isinstance(objective.get(key), float) and isinstance(steps, int):
                if not 0 <= objective[key] <= 1:
                    raise InputError(
                        f"model.objectives: {key}: expected steps (an integer) or a share of them in [0, 1], "
                        f"got {objective[key]}"
                    )
                to_the_end = key == "end" and objective[key] == 1
                objective[key] = None if to_the_end else round(objective[key] * (laid_out or steps))
        begin, end = objective.get("begin", 0), objective.get("end")
        if given and type(begin) is type(steps) is int and (begin >= steps or type(end) is int and end <= begin):
            warn_once(f"model.objectives: {objective.get('type')}: {given}: in {steps} steps it never acts")
        acting.append((begin, steps if end is None else end))
    reached = 0
    if acting and all(type(each) is int for each in chain([steps], *acting)):
        for begin, end in sorted(acting):
            reached = max(reached, end) if begin <= reached else reached
        if reached < steps:
            raise InputError(f"model.objectives: expected one or more at every step, but none acts at step {reached}")


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
    settings["load_from"] = weights_content(content.get("load_from"))
    # What a checkpoint's statistics are measured by; named nowhere, it is the hook with its defaults.
    settings["precise_norm"] = (content.get("default_hooks") or {}).get("precise_norm", dict(type="PreciseNormHook"))
    return json.loads(json.dumps(settings, default=str))


def weights_content(path):
    """Return what the weights that a run begins with are known by, wherever they lie; None of none."""
    return file_sha256(path)[:16] if path and Path(path).is_file() else None


def _look_up(config, dotted):
    """Return what a dotted key holds, or None; refuse one whose sections do not exist, or that nothing reads."""
    node, parts = config, dotted.split(".")
    name = parts[0]
    if name in _ELSEWHERE:
        raise InputError(f"--cfg-options {dotted}: it acts from no config; {_ELSEWHERE[name]}")
    if name not in READ and (name in config or len(parts) == 1):
        places = [f"{k}.{dotted}" for k, v in config.items() if isinstance(v, dict) and name in v and k in READ]
        hint = f"did you mean {' or '.join(places)}?" if places else nearest(dotted, READ)
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
        elif depth == len(parts) - 1 or is_section(where):
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
    if text.lstrip().startswith(("[", "(", "{", "dict(")):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(_Dicts().visit(ast.parse(text.strip(), mode="eval")))
            if isinstance(value, (list, tuple, dict)):
                return value
    unread = InputError(f"--cfg-options: expected a value as Python writes it, got {text!r:.200}")
    if text.lstrip().startswith("dict("):
        raise unread
    try:
        return DictAction._parse_iterable(text)
    except AssertionError as error:
        raise InputError(f"--cfg-options: {error}") from error
    except RecursionError:  # over commas that it finds within words
        raise unread from None


class _Dicts(ast.NodeTransformer):
    """Makes ``{"a": 1}`` of ``dict(a=1)``, which config files have and ``ast.literal_eval`` does not read."""

    def visit_Call(self, node):
        self.generic_visit(node)
        if getattr(node.func, "id", None) != "dict" or node.args or not all(each.arg for each in node.keywords):
            return node
        return ast.Dict([ast.Constant(each.arg) for each in node.keywords], [each.value for each in node.keywords])
