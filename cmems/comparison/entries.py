"""What the runs of a comparison's row found: figures by metric and class, read from the files of each run."""

import math
import statistics
from pathlib import Path

from cmems.apis.record import read_record
from cmems.comparison.paired import read_metrics, read_scores, unlike_data, weights_replaced
from cmems.comparison.rows import family
from cmems.engine.checkpoint import LAST
from cmems.errors import InputError, warn_once
from cmems.visualization.tables import lost

METRICS = dict(DSC=3, HD95=2)  # decimals
_CLEANED = "cleaned"  # the model of what the config's clean-up leaves


def gather(planned, failures):
    """Gather a row's runs: ``cells[metric][class]`` is (mean, sd, n), ``cleaned`` the same cleaned up, and counts."""
    row, runs = planned["row"], []
    for run in planned["runs"]:
        found = read_run(run)
        state = "done" if found else f"failed: {failures[run['folder']]}" if run["folder"] in failures else "not run"
        runs.append(dict(run, state=state, found=found))
    done = [run["found"] for run in runs if run["found"]]
    classes = done[0]["classes"] if done else []

    def spreads(which):
        columns = ("mean", *classes)
        return {m: {c: spread([d[which].get(m, {}).get(c) for d in done]) for c in columns} for m in METRICS}

    theirs = row.paper.get(family(planned["dataset"]), {})
    if planned["dataset"].startswith("phantom") and theirs:  # for the order alone
        theirs = dict(DSC={c: value for c, value in theirs.get("DSC", {}).items() if c == "mean"})
    return dict(
        dataset=planned["dataset"],
        label=row.label,
        one_slice=row.one_slice,
        sweep=row.sweep,
        cells=spreads("values"),
        cleaned=spreads("cleaned") if any(d["cleaned"] for d in done) else {},
        classes=classes,
        paper=theirs,
        runs=runs,
        missed=sum(d["missed"] for d in done),
        volumes=sum(d["volumes"] for d in done),
        misses={c: sum(d["misses"].get(c, 0) for d in done) for c in classes},
    )


def read_run(run):
    """Return what a tested run's files say, or None: it is not tested, or one is damaged or gone, which is said.

    Args:
        run (dict): An element of :func:`cmems.comparison.plan.plan_runs`.
    """
    try:
        return _read(run)
    except InputError as error:
        warn_once(f"{error}; taken for not tested")
        return None


def _metrics_file(run):
    """Return the path of a run's ``metrics.json``, or None; one of other weights or voxels of another size is none."""
    splits = [run["split"]] if run.get("split") else ("test", "val", "valtest")
    path = next((p for s in splits if (p := Path(run["folder"], f"test_{s}", "metrics.json")).is_file()), None)
    header = read_metrics(path).get("header") if path else None
    if not isinstance(header, dict):
        return path
    if header.get("checkpoint", LAST) != LAST or weights_replaced(path, header):
        return None
    return None if unlike_data(header, dict(spacings=run.get("spacings"))) else path


def _read(run):
    """Return what a finished run's files say, or None."""
    folder, path = Path(run["folder"]), _metrics_file(run)
    if path is None:
        return None
    content, values, cleaned = read_metrics(path), {}, {}
    try:
        classes = content["header"]["classes"]
        for metric, models in content["summary"].items():
            model = "ensemble" if "ensemble" in models else "network_1"
            values[metric] = _means(models[model], content["conventions"][metric], classes)
            if _CLEANED in models:
                cleaned[metric] = _means(models[_CLEANED], content["conventions"][metric], classes)
            misses = {c: int(models[model][c]["missed"]) for c in classes}
            volumes = sum(int(models[model][c]["volumes"]) for c in classes)
        known = dict(header=content["header"], rules=content["conventions"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not what `cmems evaluate` writes ({type(error).__name__}: {error})") from error
    if not values:
        raise InputError(f"{path}: holds no metric; run `cmems evaluate` again")
    split = path.parent.name.removeprefix("test_")
    counts = dict(misses=misses, missed=sum(misses.values()), volumes=volumes)
    scores, _, _ = read_scores(path.with_suffix(".csv"), (model,))
    known.update(facts=read_record(folder), model=model, split=split, cases=scores)
    return dict(classes=classes, values=values, cleaned=cleaned, **known, **counts)


def _means(scores, convention, classes):
    """Return one model's mean by class, ``mean`` too; None where it is unknown."""
    means = {c: scores[c]["mean"] for c in ("mean", *classes)}
    return {c: None if lost(convention, scores, c) or v is None else float(v) for c, v in means.items()}


def spread(values):
    """Return mean, standard deviation (None of one value) and number of the values that are defined."""
    values = [v for v in values if v is not None and not math.isnan(v)]
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def paper_cell(entry, metric, column):
    """Return (mean, sd or None) as the paper has it, or None."""
    value = entry["paper"].get(metric, {}).get(column)
    if isinstance(value, (tuple, list)):
        return statistics.mean(value), statistics.stdev(value)
    return None if value is None else (value, None)
