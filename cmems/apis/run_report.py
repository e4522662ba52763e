"""A run's page: what it predicts, measured and shown, beside how it was trained."""

import json
import math
import re
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch

from cmems.apis.config import load_config, value_at
from cmems.apis.model_file import load_learner
from cmems.apis.places import BESIDE, check_modules
from cmems.apis.record import read_record
from cmems.apis.rounds import rounds_in
from cmems.apis.runs import content_of, trained_on, with_convention
from cmems.apis.segmenter import best_device
from cmems.apis.trust import by_doubt, trust_rows
from cmems.datasets.prepared import PreparedDataset, true_affine
from cmems.engine.checkpoint import BEST, LAST, read_meta
from cmems.engine.checks import told
from cmems.engine.runner import PAGE, RECORD, set_up_cpu
from cmems.errors import InputError
from cmems.files import check_target
from cmems.registry import METRICS
from cmems.visualization.curves import read_history
from cmems.visualization.hooks import EXEMPLARS
from cmems.visualization.page import small, write_page


def is_run(folder):
    """Tell whether a folder is the work directory of a training, or of rounds of it."""
    return bool(_rounds(folder))


def report_run(
    folder, out=None, split=None, checkpoint=None, preset=None, cases=4, megabytes=15, cfg_options=None, progress=None
):
    """Write one HTML file about a run: scores, cases to page through, curves, config and environment.

    The checkpoint predicts and is measured anew, as ``cmems evaluate`` does, so that numbers and pictures are of the
    same weights. Volumes of the training split are shown, and measured by nothing: their labels are for training.

    Args:
        folder (str): The work directory of a training, or of rounds, of which the last is meant.
        out (str | None): The page. Default: ``report.html`` in the folder.
        split (str | None): Default: the first of ``test``, ``val`` and ``train`` that holds a case.
        checkpoint (str | None): The weights. Default: ``best.pth`` of a training, ``last.pth`` of rounds or where there
            is no other.
        preset (str | None): Metric convention; default the config's.
        cases (int): How many of the worst cases are shown slice by slice, and how many of the best.
        megabytes (float): What the page may take.
        cfg_options (dict | None): Dotted keys to set in the run's config.
        progress (callable | None): Called with (cases done, cases, name).

    Returns:
        tuple[Path, list[str]]: The page, and what it leaves out.

    Raises:
        InputError: The folder is no run, or something in its config, its data or the checkpoint is wrong.
    """
    if cases < 0 or not megabytes > 0:
        raise InputError(f"--cases, --megabytes: expected 0 or more, and more than 0; got {cases}, {megabytes:g}")
    target = Path(out) if out else Path(folder, PAGE)
    check_target("--out" if out else "the page", target, "<!DOCTYPE html>\n<!-- CMEMS -->")
    runs = _rounds(folder)
    if not runs:
        raise InputError(f"{folder}: no run: it has no {RECORD}, which a training writes")
    last = list(runs.values())[-1]
    record = read_record(last)
    config = _config_of(last, record)
    # Components of one's own lie where the run's config did; after them, load_config looks beside its copy.
    sys.path += [place for place in record.get("modules") or () if place not in sys.path]
    cfg = load_config(str(config), cfg_options)
    check_modules(cfg, record.get("modules") or ())
    data = _data_of(cfg, record, cfg_options)
    split = split or next((each for each in ("test", "val", "train") if data.manifest["splits"].get(each)), "test")
    names = data.cases(split)
    if not names:
        raise InputError(f"{data.root}: split '{split}' holds no case")
    if preset and split == "train":
        raise InputError(f"--metrics-preset {preset}: training cases are not measured")
    path = Path(checkpoint) if checkpoint else _weights(last, len(runs) > 1)
    meta = read_meta(path)
    set_up_cpu(cfg.get("env_cfg") or {})
    model = load_learner(cfg, config, path, data).to(best_device())
    metrics = _metrics(cfg, preset, data) if split != "train" else []
    models = model.prediction.names(model.num_networks)
    trust, measured, bare = [], 0, 0
    for done, name in enumerate(names, 1):
        volume = _volume(data, name)
        (labels,), (doubt,) = model.prediction.segment_with_doubt(model.predictors, [volume])
        trust += trust_rows(name, data.classes, labels, doubt, volume["spacing"])
        bare += volume["label"] is None
        if metrics and volume["label"] is not None:
            measured += 1
            for metric in metrics:
                metric.process(None, [dict(volume, predictions=labels)])
        if progress:
            progress(done, len(names), name)
    metrics = metrics if measured else []
    for metric in metrics:
        metric.evaluate(measured)
    dice = _dice(metrics, models[-1])
    # Worst first, those without a DSC last, by doubt.
    order = sorted(dict.fromkeys(row["scan"] for row in by_doubt(trust)), key=lambda case: dice.get(case, math.inf))
    rank = {case: n for n, case in enumerate(order)}
    trust.sort(key=lambda row: rank[row["scan"]])
    groups = _chosen(order, dice, cases)
    shown = {heading: [_look(model, data, name) for name in group] for heading, group in groups.items() if group}
    histories = {title: read_history(each) for title, each in runs.items()}
    notes = _notes(path, last, split, data, record, meta, measured, bare, len(names), model.num_networks)
    left = write_page(
        target,
        title=Path(folder).resolve().name,
        facts=_facts(record, config, data, split, measured, len(names), path, meta),
        notes=notes,
        classes=data.classes,
        models=models,
        metrics=metrics,
        trust=trust,
        shown=shown,
        histories=histories,
        texts=_texts(cfg, record),
        megabytes=megabytes,
        learnt=_learnt(runs),
    )
    return target, left


def _learnt(runs):
    """Return the picture of what each training of a folder learnt from, by heading, where it left one."""
    found = {title: Path(folder, EXEMPLARS) for title, folder in runs.items()}
    return {
        "What it learnt from" + f": {title}" * (len(runs) > 1): file for title, file in found.items() if file.is_file()
    }


def _rounds(folder):
    """Return the trainings of a folder by name: itself, or its rounds in their order, up to one that goes on."""
    folder = Path(folder)
    if (folder / RECORD).is_file():
        return {folder.resolve().name: folder}
    rounds, finished = {}, True
    for k, path in rounds_in(folder).items():
        if finished and (path / RECORD).is_file():
            rounds[f"round {k}"] = path
        finished = finished and read_record(path).get("finished", False)  # else what follows is of what it was before
    return rounds


def _config_of(folder, record):
    """Return the config that a run left in its folder, among whatever modules may lie there too."""
    named = Path(str(record.get("config"))).name  # of a path, a data set's folder, or cmems::FOLDER/NAME
    for name in (record.get("config_copy"), named, f"{named}.py", BESIDE):
        if name and name.endswith(".py") and Path(folder, name).is_file():
            return Path(folder, name)
    expected = record.get("config_copy") or named
    raise InputError(f"{folder}: the run's config is not there: expected {expected} beside {RECORD}")


def _data_of(cfg, record, options):
    """Return the prepared data set of a run, wherever it was trained from."""
    known = (record.get("data") or {}).get("root")
    for key in options or ():
        if key.rpartition(".")[2] == "data_root":  # whichever it is: all that a page shows is of one data set
            return PreparedDataset(value_at(cfg, key))
    there = isinstance(known, str) and Path(known).is_dir()
    root = known if there else cfg.train_dataloader.data_root
    if not Path(root).exists():
        raise InputError(
            f"{root}: the run's data set is not there; where it is now: --cfg-options train_dataloader.data_root=DATA"
        )
    return PreparedDataset(root)


def _weights(folder, in_rounds):
    for name in (LAST,) if in_rounds else (BEST, LAST):
        if Path(folder, name).is_file():
            return Path(folder, name)
    raise InputError(f"{folder}: no checkpoint: expected {LAST}, which a training writes")


def _metrics(cfg, preset, data):
    """Build the metrics of the config's test, else those of its validation and HD95 under their convention.

    A config that names none was written by a training without validation: none of the papers' conventions is meant.
    """
    given = cfg.get("test_evaluator") or cfg.get("val_evaluator") or [dict(type="DSC", preset="strict")]
    given = [dict(each) for each in ([given] if isinstance(given, dict) else given)]
    if not cfg.get("test_evaluator") and not any(each["type"] == "HD95" for each in given):
        given.append(dict(type="HD95", preset=given[0].get("preset", "transunet")))
    for each in with_convention(given) if preset else ():
        each["preset"] = preset
    with told("test_evaluator or val_evaluator"):
        built = [METRICS.build(each) for each in given]
    built = [metric for metric in built if hasattr(metric, "convention")]
    for metric in built:
        metric.dataset_meta = dict(name=data.name, classes=data.classes)
    return built


def _volume(data, name):
    """Return a case as networks take it; of a training case, what the prepared data set has, on the scan's grid."""
    if data.case(name)["split"] != "train":
        return dict(data.volume(name), frame=data.frame)
    entry, rows = data.case(name), data.rows(name)
    squares = np.array(data.train_images()[rows.start : rows.stop])
    label = None
    if entry["labelled"]:
        label = torch.from_numpy(np.array(data.train_labels()[rows.start : rows.stop]))
        label = data.frame.labels_back(label, tuple(entry["shape"][1:]), entry["spacing"][1:]).numpy()
    facts = dict(shape=tuple(entry["shape"]), spacing=tuple(entry["spacing"]), affine=true_affine(entry))
    return dict(facts, case=name, image=squares, label=label, frame=data.frame)


def _look(model, data, name):
    """Predict a case again, with its map of doubt, and keep what the page shows of it."""
    volume = _volume(data, name)
    (labels,), (doubt,) = model.prediction.segment_with_doubt(model.predictors, [volume], maps=True)
    if "shape" in volume:
        image = torch.from_numpy(volume["image"]).float()
        both = torch.stack([1 - image, image], 1)  # what lies beyond the square is black
        back = data.frame.probabilities_back(both, volume["shape"][1:], volume["spacing"][1:])[:, 1]
        volume["image"] = back.numpy()
    return small(dict(volume, predictions=labels), doubt.entropies)


def _dice(metrics, best):
    """Return the mean DSC of each case that has one."""
    values = {}
    for row in (row for metric in metrics if metric.convention["metric"] == "DSC" for row in metric.cases):
        if row["model"] == best and math.isfinite(row["value"]):
            values.setdefault(row["case"], []).append(row["value"])
    return {case: sum(each) / len(each) for case, each in values.items()}


def _chosen(order, dice, count):
    """Return the cases to show under their headings, none twice: all, or, where a DSC is known, of those with one."""
    low, high = ("Worst", "Best") if dice else ("Most doubtful", "Least doubtful")
    if len(order) <= 2 * count:
        return {f"All cases, {low.lower()} first": order}
    order = [case for case in order if case in dice] if dice else order
    return {low: order[:count], high: order[::-1][:count]}


def _facts(record, config, data, split, measured, count, path, meta):
    steps, of = record.get("steps"), record.get("of")
    made = f"{meta.get('iter')} of {of} steps" if of else f"{meta.get('iter')} steps"
    seconds = record.get("seconds")
    facts = {
        "data set": f"{data.name}, {len(data.cases('train'))} training cases",
        "split": f"{split}: {count} case{'s' * (count != 1)}, {measured} measured",
        "config": _bare(record.get("config") or config.name),
        "weights": f"{path.name}, {made}",
        "seed": record.get("seed"),
        "trained": None if seconds is None else f"{record.get('started', '')[:10]}, {_duration(seconds)}",
        "device": record.get("device"),
        "cmems": " ".join(filter(None, (record.get("cmems"), record.get("commit")))) or None,
    }
    if record.get("finished") is False:
        facts["trained"] = f"{facts['trained'] or ''}; not finished, {steps} of {of} steps"
    return {key: str(value) for key, value in facts.items() if value is not None}


def _notes(path, run, split, data, record, meta, measured, bare, count, networks):
    notes = []
    if path.name == BEST and split in ("val", "valtest"):
        notes.append(f"{BEST} was chosen by the scores on validation: on this split they flatter it")
    if path.resolve().parent != Path(run).resolve():
        notes.append(f"the weights are not this run's: {path.resolve().parent.name}/{path.name}")
    if split == "train":
        notes.append(
            "training cases: pictures have the networks' size, and nothing is measured, since their labels are for "
            "training; cases are ordered by doubt"
        )
    elif bare == count:
        notes.append("no case of this split has a reference: cases are ordered by doubt, and no DSC is known")
    elif not measured:
        notes.append(
            "test_evaluator has no metric that this page shows: cases are ordered by doubt, and no DSC is known"
        )
    elif measured < count:
        notes.append(f"{count - measured} of {count} cases have no reference: they are not in the scores")
    if split != "train" and (seen := trained_on(data, split, meta)):
        notes.append(seen)
    if networks == 1:
        notes.append("one network: there is no other to agree with")
    trained = (record.get("data") or {}).get("content")
    if trained not in (None, content_of(data)):
        notes.append("the prepared data set is not what it was when the run was trained")
    if record.get("finished") is False:
        notes.append("the training is not finished")
    return notes


def _texts(cfg, record):
    """Return config and record without folders, which may name people."""
    plain = type(cfg)(_without_folders(cfg._cfg_dict.to_dict()))
    return {
        "Config": plain.pretty_text,
        f"Environment ({RECORD})": json.dumps(_without_folders(record), indent=1, ensure_ascii=False),
    }


_PLACES = {"data_root", "root", "folder", "work_dir", "load_from", "config", "filename", "out", "out_dir"}


def _without_folders(value, key=None):
    if isinstance(value, dict):
        return {key: _without_folders(each, key) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_folders(each, key) for each in value)
    return _bare(value, key in _PLACES) if isinstance(value, str) else value


def _bare(text, place=False):
    """Return the last part of a path that is from the root or a folder above, or a URI's, or of any ``place``; any
    other text as it is.
    """
    rooted = PurePosixPath(text).is_absolute() or re.match(r"~|\.\.?[\\/]|[A-Za-z][\w+.-]*:[\\/]|\\\\", text)
    if rooted or place and re.search(r"[\\/]", text) and not text.startswith(("cmems::", "configs/")):
        return f"…/{PureWindowsPath(text).name}"
    return text


def _duration(seconds):
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{minutes // 60} h {minutes % 60} min"
        if minutes > 90
        else f"{minutes} min"
    )
