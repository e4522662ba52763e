"""What a suite's runs are: the config of each, and the folder that it is known by."""

import ast
import copy
import difflib
import hashlib
import json
import pprint
import re
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from cmems.apis.budget import check_steps
from cmems.apis.config import load_config, need_set, set_options, value_at, weights_content
from cmems.apis.places import find_config, known_configs, module_content, module_folders, own_modules
from cmems.apis.runs import check_seed, content_of
from cmems.apis.testing import TESTS
from cmems.apis.training import TRAINS
from cmems.comparison.rows import exemplar_slice
from cmems.datasets.masks import masks_content
from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.sources import load_exemplars, need_every_label
from cmems.errors import InputError

TEMPLATE = "acdc_128"  # one's own data takes the methods from the configs for this
# What makes two configs the same run; the rest is variables of config files and the seed.
_DECISIVE = (
    *("model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "custom_imports", "custom_hooks"),
    *("default_hooks", "val_dataloader", "val_evaluator", "val_cfg", "test_dataloader", "test_evaluator"),
    *("runner_type", "env_cfg", "efficient_conv_bn_eval", "activation_checkpointing", "compile", "model_wrapper_cfg"),
    "find_unused_parameters",
)


_NEEDS = tuple(dict.fromkeys((*TRAINS, *TESTS)))  # of a run, which is trained and tested
# What a row cannot set, with the option that does.
_SET_HERE = {"randomness.seed": "seeds", "work_dir": "work-dir", "resume": "resume"}


def plan_runs(suite, datasets, seeds, exemplars, work_dir, steps=None):
    """Read every config and list what is to run.

    Returns:
        list[dict]: An entry per data set and row: ``dataset``, ``row`` and ``runs``, plain dicts.

    Raises:
        InputError: Configs are missing (all are listed), or one is wrong; or something is named twice.
    """
    _check_asked(steps, seeds, exemplars, datasets)
    _need_configs(suite, datasets)
    plan, bases = [], {}
    for dataset in datasets:
        for row in suite.rows:
            runs, path = [], row.config.format(dataset=dataset)
            bases[path] = bases.get(path) or load_config(path, needs=_NEEDS)
            learns = {}
            for exemplar in exemplars if row.one_slice else ["A"]:
                chosen = exemplar_slice(exemplar, dataset)
                resolved = (path, bases[path], *_resolve(row, path, bases[path], {}, chosen, steps))
                _check_other(learns, exemplar, resolved[-1])
                runs += [_run(resolved, path, dataset, exemplar, seed, row, work_dir) for seed in seeds]
            plan.append(dict(dataset=dataset, row=row, runs=runs))
    return plan


def plan_own(suite, data, seeds, exemplars, work_dir, steps=None):
    """Read the config of a prepared data set of one's own and every method's, and list what is to run.

    Everything but the model is the data set's: exemplar, sources, schedule, metrics. Of the model too, what its anatomy
    allows: classes, mirror images and turns, clean-up.

    Args:
        data (str | Path): Its folder, with the ``config.py`` that ``cmems prepare`` leaves.

    Returns:
        tuple[Suite, list[dict]]: The suite without the paper's figures, but with a note for each row that is left out,
        as its method needs what the data lacks; and the plan of the others, as :func:`plan_runs` has it.

    Raises:
        InputError: A config is missing or wrong, nothing of the data can be measured, or no row is left.
    """
    _check_asked(steps, seeds, exemplars)
    _need_configs(suite, [TEMPLATE])
    path, own = find_config(data), load_config(data, needs=_NEEDS)
    prepared = PreparedDataset(own.train_dataloader.data_root)
    name = prepared.root.resolve().name
    if not any(prepared.case(c)["labelled"] for split in ("test", "val") for c in prepared.cases(split)):
        raise InputError(f"{data}: no case of val or test is labelled, so there is nothing to measure methods by")
    chosen = {exemplar: exemplar_slice(exemplar, name, {}) for exemplar in exemplars}
    plan, left_out = [], []
    for row in suite.rows:
        row, runs, method = replace(row, paper={}), [], row.config.format(dataset=TEMPLATE)
        moved = _moved(load_config(method), own, prepared.num_classes)
        if "train_dataloader.labeled" in moved:
            try:
                need_every_label(prepared)
            except InputError as error:
                left_out.append(f"{row.label} is left out: {error}")
                continue
        learns = {}
        for exemplar in exemplars if row.one_slice else ["A"]:
            resolved = (path, own, *_resolve(row, path, own, moved, chosen.get(exemplar), steps))
            _check_other(learns, exemplar, resolved[-1])
            runs += [_run(resolved, method, name, exemplar, seed, row, work_dir) for seed in seeds]
        plan.append(dict(dataset=name, row=row, runs=runs))
    if not plan:
        raise InputError(left_out)
    return replace(suite, title=f"{suite.name} on {name}", notes=tuple(left_out)), plan


def _check_asked(steps, seeds, exemplars, datasets=()):
    for option, values in (("--seeds", seeds), ("--exemplars", exemplars), ("--datasets", datasets)):
        if twice := [str(value) for value in dict.fromkeys(values) if list(values).count(value) > 1]:
            raise InputError(f"{option}: expected each once, got {', '.join(twice)} more than once")
    if steps is not None:
        check_steps(steps)
    for seed in seeds:
        check_seed(seed)


def _check_other(learns, exemplar, config):
    """Refuse two names of the same exemplar; ``learns`` has those of before by the slices that they are."""
    slices = {(str(each["case"]), str(each["slice"])) for each in _slices(config.train_dataloader)}
    cases = config.train_dataloader.get("labeled_cases") or []
    if (other := learns.setdefault((frozenset(slices), repr(cases)), exemplar)) != exemplar:
        raise InputError(f"--exemplars: expected each once, got {other} and {exemplar}, which are the same slice")


def _slices(train):
    """Return the labelled slices that a ``train_dataloader`` names."""
    found = []
    for name, one in (("exemplar_slice", True), ("exemplar_slices", False)):
        value = train.get(name)
        slices = ([value] if one else value) if value else []
        if not isinstance(slices, (list, tuple)) or not all(
            isinstance(each, dict) and set(each) == {"case", "slice"} for each in slices
        ):
            what = "dict(case=..., slice=...)" if one else "a list of dict(case=..., slice=...)"
            raise InputError(f"train_dataloader.{name}: expected {what}, got {value!r}")
        found += slices
    return found


def _moved(config, own, num_classes):
    """Return the options that make, of the config of one's own data, the method of another config."""
    model, ours = config._cfg_dict.to_dict()["model"], own._cfg_dict.to_dict()["model"]
    networks = model["backbone"] if isinstance(model["backbone"], list) else [model["backbone"]]
    for network in networks:
        network["num_classes"] = num_classes
    model["weak"] = ours["weak"]
    if "prediction" in model:
        of_data, prediction = ("views", "scales", "clean"), ours["prediction"]
        kept = {k: v for k, v in model["prediction"].items() if k not in of_data}
        model["prediction"] = {**{k: prediction[k] for k in of_data if k in prediction}, **kept}
    options = dict(model=dict(_delete_=True, **model))
    if labeled := config.train_dataloader.get("labeled"):
        options["train_dataloader.labeled"] = dict(
            labeled.to_dict(), batch_size=own.train_dataloader.exemplar.batch_size
        )
    if modules := own_modules(config):
        options["custom_imports"] = dict(imports=[*own_modules(own), *modules])
    return options


def _need_configs(suite, datasets):
    if missing := missing_configs(suite, datasets):
        name = re.sub(r"^(cmems::|configs/)|\.py$", "", missing[0])
        near = difflib.get_close_matches(name, known_configs(), n=1, cutoff=0.8)
        meant = f"; did you mean cmems::{near[0]}?" if near else ""
        raise InputError(f"suite {suite.name}: {len(missing)} config(s) missing: {', '.join(missing)}{meant}")


def missing_configs(suite, datasets):
    """Return the paths of configs that a suite names and that are not there."""
    paths = [row.config.format(dataset=dataset) for dataset in datasets for row in suite.rows]
    return [path for path in dict.fromkeys(paths) if not _there(path)]


def _there(path):
    try:
        return bool(find_config(path))
    except InputError:
        return False


def _resolve(row, path, base, moved, chosen, steps):
    """Return the options of a row, on top of those that moved it to other data, and the config that results."""
    config = copy.deepcopy(base)
    options = set_options(config, moved)
    try:
        more = dict(row.options(config) if callable(row.options) else row.options)
    except InputError as error:
        raise InputError([f"row {row.label}: {problem}" for problem in error.problems]) from error
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(f"row {row.label}: {path} lacks what the row changes ({error})") from error
    except Exception as error:  # the function is the user's, whatever it raises
        raise InputError(f"row {row.label}: options: {type(error).__name__}: {error}") from error
    for key in more:
        _check_set_here(row, key, key in _SET_HERE)
        more[key] = _written(row, key, more[key])
    try:
        options.update(set_options(config, more))
        need_set(config, _NEEDS, path)
        _slices(config.train_dataloader)
    except InputError as error:
        problems = [problem.removeprefix("--cfg-options ") for problem in error.problems]
        raise InputError([f"row {row.label}: {problem}" for problem in problems]) from error
    for key in _SET_HERE:
        _check_set_here(row, key, value_at(config, key) != value_at(base, key))
    more = {}
    if chosen is not None:
        more["train_dataloader.exemplar_slice"] = dict(_delete_=True, **chosen)
        others = ("exemplar_slices", "labeled_cases")
        more |= {f"train_dataloader.{name}": [] for name in others if config.train_dataloader.get(name)}
    if steps is not None:
        more["train_cfg.max_iters"] = steps
    return {**options, **set_options(config, more)}, config


def _written(row, key, value):
    """Return an option as a config's file can hold it: numbers of numpy and paths as Python's own."""
    if isinstance(value, dict):
        return {k: _written(row, f"{key}.{k}", v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_written(row, f"{key}.{k}", v) for k, v in enumerate(value))
    value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    value = str(value) if isinstance(value, PurePath) else value
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError) as error:
        raise InputError(f"row {row.label}: {key}: expected plain values, which a file holds; got {value!r}") from error
    return value


def _check_set_here(row, key, is_set):
    if is_set:
        raise InputError(f"row {row.label}: {key}: no row sets it; cmems compare --{_SET_HERE[key]} does, for all")


def _run(resolved, method, dataset, exemplar, seed, row, work_dir):
    path, base, options, config = resolved
    content, (data, tested, unfit) = config._cfg_dict.to_dict(), _data_of(config)
    decisive = _anywhere({k: content.get(k) for k in _DECISIVE}) | dict(data=data)
    if config.get("load_from"):
        decisive["load_from"] = weights_content(config.load_from) or str(config.load_from)
    if modules := module_content(config):
        decisive["modules"] = modules
    decisive = json.dumps(decisive, sort_keys=True, default=str)
    digest = hashlib.sha1(decisive.encode()).hexdigest()[:8]
    mark = re.sub(r"\W+", "-", exemplar)
    folder = Path(work_dir, "runs", dataset, f"{Path(method).parent.name}-{digest}", f"{mark}-seed{seed}")
    return dict(
        name=f"{row.label}, {dataset}, exemplar {exemplar}, seed {seed}",
        base=method,
        config=config_text(path, base, options, config),
        folder=str(folder),
        dataset=dataset,
        exemplar=exemplar if row.one_slice else "-",
        seed=seed,
        unfit=unfit,
        **tested,
    )


def _anywhere(value):
    """Return sections of a config without where data and masks lie: what these hold is told beside them."""
    if isinstance(value, (list, tuple)):
        return [_anywhere(each) for each in value]
    if not isinstance(value, dict):
        return value
    places = {"data_root"} | ({"folder"} if value.get("type") == "StaticLabels" else set())
    return {key: _anywhere(each) for key, each in value.items() if key not in places}


def _data_of(config):
    """Return what a config's data sets hold, None for one that is not there; what is tested; and what is wrong."""
    found, problems, train = [], [], config.train_dataloader
    tested = dict(split=None, spacings={})
    test = config.test_dataloader.dataset
    for root, slices, part in ((train.get("data_root"), _slices(train), train), (test.get("data_root"), (), test)):
        found.append(None)
        try:
            prepared = PreparedDataset(root)
            found[-1] = content_of(prepared)
            found += [masks] if (masks := masks_content(prepared, part if part is train else {})) else []
            if slices:
                load_exemplars(prepared, slices)
            if part is test:
                tested = _tested(prepared, test.get("split") or "test")
        except InputError as error:
            problems += error.problems
    return found, tested, problems


def _tested(prepared, split):
    """Return the split that a run is tested on, which is another than the config's where none of that is labelled."""
    for each in (split, "test", "val"):
        cases = prepared.cases(each)
        if any(prepared.case(case)["labelled"] for case in cases):
            return dict(split=each, spacings={case: list(prepared.case(case)["spacing"]) for case in cases})
    raise InputError(f"{prepared.root}: no case of split '{split}' is labelled, so there is nothing to measure by")


def config_text(path, base, options, config):
    """Return a config file's text: a base, and options with lists and dicts written out.

    Args:
        path (str): Path of the base.
        base (Config): What it says.
        options (dict): Dotted keys that were set.
        config (Config): The base with the options.

    Returns:
        str: A file that reads as ``config`` does.
    """
    original, changed, sections = base._cfg_dict.to_dict(), config._cfg_dict.to_dict(), {}
    for dotted in options:
        parts, place, old, new = dotted.split("."), sections, original, changed
        for depth, part in enumerate(parts):
            old, new = old.get(part) if isinstance(old, dict) else None, new[part]
            if depth == len(parts) - 1 or not isinstance(new, dict):  # an element of a list takes the whole list along
                if isinstance(new, dict) and isinstance(old, dict):
                    new = {"_delete_": True, **new}  # its keys may be labels
                place[part] = new
                break
            place = place.setdefault(part, {})
            if "_delete_" in place:  # a section that is already written whole
                break
    lines = [f"{key} = {pprint.pformat(value, width=100, sort_dicts=False)}" for key, value in sections.items()]
    lines.insert(0, f"_base_ = {str(find_config(path).resolve())!r}")
    if folders := module_folders(config):  # which are not beside this file
        lines = ["import sys", f"sys.path += {folders!r}", *lines]
    return "\n".join(["# Written by cmems compare.", *lines, ""])
