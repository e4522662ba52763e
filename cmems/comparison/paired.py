"""Two sets of scores of the same cases, laid side by side: difference, interval, Wilcoxon's signed-rank test."""

import csv
import json
import math
from pathlib import Path

import numpy as np
from prettytable import PrettyTable
from scipy.stats import wilcoxon

from cmems.datasets.names import patient_of
from cmems.datasets.prepared import file_sha256
from cmems.errors import InputError
from cmems.visualization.tables import BEST_FIRST, DISTANCES, known_value, model_label

COLUMNS = ("metric", "class", "a", "b", "difference", "low", "high", "p", "n")


def compare_scores(a, b):
    """Compare two runs' scores per case.

    Args:
        a, b (str | Path): A ``metrics.csv`` of ``cmems evaluate``, the folder of one, or a run's folder, tested once.

    Returns:
        tuple[list[dict], tuple[str, str], list[str]]: A row of ``COLUMNS`` per metric and class, or ``mean``, a case's
        mean over the classes that both scored, see :func:`paired`; the models: of each run the cleaned one, else the
        ensemble, else network 1; and sentences on checkpoints
        that differ, and on conventions that are not known.

    Raises:
        InputError: Scores are missing, of one run twice, of weights that are not there any more, or not of the same
            cases, reference masks, voxel sizes, classes and conventions.
    """
    if (one := _scores_file(Path(a))).samefile(_scores_file(Path(b))):
        raise InputError(f"{a} and {b}: expected two runs, got one, {one}, twice")
    headers = [_header(_scores_file(Path(path))) for path in (a, b)]
    for path, header in zip((a, b), headers, strict=True):
        _check_weights(_scores_file(Path(path)), header)
    if odd := unlike_data(*headers):
        raise InputError(f"{a} and {b}: {odd}; test both on one data set")
    (first, model_a, rules_a), (second, model_b, rules_b) = read_scores(a), read_scores(b)
    metrics = [name for name in first if name in second]
    if not metrics:
        raise InputError(f"{a} and {b}: no metric in common; one has {', '.join(first)}, the other {', '.join(second)}")
    rows = []
    for name in metrics:
        if odd := unlike_rules(name, rules_a, rules_b, a, b):
            raise InputError(f"{odd}; expected one")
        ours, theirs = first[name], second[name]
        for what, kept in (("cases", cases_of), ("classes", set)):
            if odd := unlike_sets(what, kept(ours), kept(theirs), a, b):
                raise InputError(odd)
        for c in ("mean", *ours):
            pair = case_means(ours, theirs) if c == "mean" else (ours[c], theirs[c])
            rows.append({"metric": name, "class": c, **paired(*pair)})
    notes, weights = [], [header.get("checkpoint") for header in headers]
    if None not in weights and len(set(weights)) > 1:
        notes.append(f"{a} was tested with {weights[0]}, {b} with {weights[1]}")
    for path, rules in ((a, rules_a), (b, rules_b)):
        if unknown := [name for name in metrics if name not in rules]:
            notes.append(
                f"{path}: the convention of {', '.join(unknown)} is not known, as this is no metrics.csv with "
                "its metrics.json beside it; make sure that both runs have one, in one unit"
            )
    return rows, (model_a, model_b), notes


def paired(a, b, resamples=9999):
    """Compare two scores of the same cases; several of one patient, ACDC's two frames, are one case, their mean.

    Args:
        a, b (dict[str, float]): Scores by case; one that either lacks, or has as NaN, is left out.
        resamples (int): Of the bootstrap, whose draws are the same each time.

    Returns:
        dict: ``a``, ``b``, the means; ``difference``, the mean of B less A; ``low`` and ``high``, 95 % of it, by the
        percentiles of the bootstrap over cases; ``p``, two-sided, of Wilcoxon's signed-rank test as scipy makes it
        (exact up to 50 cases without ties; equal scores are left out; 1 where all are); ``n`` cases. NaN where n is 0.
    """
    cases = [case for case, value in a.items() if not math.isnan(value) and not math.isnan(b.get(case, math.nan))]
    if not cases:
        return dict(dict.fromkeys(("a", "b", "difference", "low", "high", "p"), math.nan), n=0)
    patients = {}
    for case in cases:
        patients.setdefault(patient_of(case), []).append(case)
    first, second = (np.array([np.mean([each[c] for c in some]) for some in patients.values()]) for each in (a, b))
    differences = second - first
    means = np.random.default_rng(0).choice(differences, (resamples, len(patients))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    p = wilcoxon(differences).pvalue if differences.any() else 1.0
    found = dict(a=first.mean(), b=second.mean(), difference=differences.mean(), low=low, high=high, p=p)
    return dict({key: float(value) for key, value in found.items()}, n=len(patients))


def case_means(a, b):
    """Return the mean over classes, by case, of two scores; a class counts where both have a number.

    Args:
        a, b (dict): Scores by class, then by case.
    """
    found = {}
    for c, scores in a.items():
        for case, value in scores.items():
            pair = value, b.get(c, {}).get(case, math.nan)
            if not any(map(math.isnan, pair)):
                found.setdefault(case, []).append(pair)
    return tuple({case: sum(p[i] for p in pairs) / len(pairs) for case, pairs in found.items()} for i in (0, 1))


def read_scores(path, models=BEST_FIRST):
    """Read scores per case.

    A distance to what was never found is NaN, also where the convention counts it as 0.

    Args:
        path (str | Path): As for :func:`compare_scores`.
        models (sequence[str]): The first of these that is there is read.

    Returns:
        tuple[dict, str, dict]: Scores by metric, class and case; the model; conventions by metric, where known.

    Raises:
        InputError: There is no such file, or it holds no scores.
    """
    path = _scores_file(Path(path))
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        names = [n for n in (rows[0] if rows else ()) if n and f"{n}_status" in rows[0]]
        model = next((m for m in models if any(row.get("model") == m for row in rows)), None)
        if model is None or not names:
            raise InputError(f"{path}: expected columns case, model, class and metrics, of {', '.join(models)}")
        scores = {name: {} for name in names}
        for row in rows:
            for name in names if row["model"] == model else ():
                value = float(row[name] or math.nan)
                by_case = scores[name].setdefault(row["class"], {})
                if row["case"] in by_case:
                    raise InputError(f"{path}: {row['case']} stands there twice")
                by_case[row["case"]] = known_value(name, row[f"{name}_status"], value)
        beside = path.with_name("metrics.json")
        known = path.name == "metrics.csv" and beside.is_file()
        return scores, model, read_metrics(beside)["conventions"] if known else {}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not what `cmems evaluate` writes ({type(error).__name__}: {error})") from error


def read_metrics(path):
    """Return the content of a ``metrics.json``; raises InputError where it is damaged."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        if not all(isinstance(each, dict) for each in content["conventions"].values()):
            raise TypeError("conventions: expected an object for each metric")
        return content
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not what `cmems evaluate` writes ({type(error).__name__}: {error})") from error


def drawn(rows, names=("A", "B"), decimals=3):
    """Return rows of ``COLUMNS`` as texts, for a table: columns, and the cells of each row."""
    columns = ["", *names, f"{names[1]} - {names[0]}", "95 %", "p", "n"]
    cells = []
    for row in rows:
        places = 2 if row["metric"] in DISTANCES else decimals
        a, b, difference, low, high = (
            "–" if math.isnan(row[key]) else f"{row[key]:{sign}.{places}f}"
            for key, sign in (("a", ""), ("b", ""), ("difference", "+"), ("low", "+"), ("high", "+"))
        )
        p = "–" if math.isnan(row["p"]) else f"{row['p']:.2g}" if row["p"] >= 1e-4 else f"{row['p']:.0e}"
        cells.append([f"{row['metric']} {row['class']}", a, b, difference, f"{low} to {high}", p, str(row["n"])])
    return columns, cells


def paired_table(rows, models):
    """Return the table of :func:`compare_scores` for a terminal."""
    columns, cells = drawn(rows)
    table = PrettyTable(columns)
    table.add_rows(cells)
    table.align = "r"
    table.align[""] = "l"
    return f"A: {model_label(models[0])}, B: {model_label(models[1])}\n{table.get_string()}"


def _scores_file(path):
    if path.is_file():
        return path
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a tested run, or a metrics.csv")
    found = [p for p in (path / "metrics.csv", *sorted(path.glob("test_*/metrics.csv"))) if p.is_file()]
    if len(found) != 1:
        those = f"{len(found)}: {', '.join(map(str, found))}" if found else "none; cmems evaluate writes it"
        raise InputError(f"{path}: expected one metrics.csv, found {those}")
    return found[0]


def _header(path):
    """Return what ``metrics.json`` beside a ``metrics.csv`` says of the test, or an empty dict."""
    beside = path.with_name("metrics.json")
    header = read_metrics(beside).get("header") if path.name == "metrics.csv" and beside.is_file() else None
    return header if isinstance(header, dict) else {}


def weights_replaced(path, header):
    """Return the checkpoint beside the folder of a test that was replaced since, by more training or another, or None.

    Of a test in a folder of one's own naming, which may lie anywhere, it is not known.

    Args:
        path (Path): A file of the test.
        header (dict): Of its ``metrics.json``.
    """
    name, known = header.get("checkpoint"), header.get("weights")
    weights = path.parent.parent / str(name)
    known = known if path.parent.name.startswith("test_") else None
    return weights if known and weights.is_file() and file_sha256(weights) != known else None


def _check_weights(path, header):
    """Refuse scores of a checkpoint that was replaced since."""
    if weights := weights_replaced(path, header):
        raise InputError(
            f"{path}: is of what {weights} was before it was trained anew or on; run `cmems evaluate` again"
        )


def unlike_data(*headers):
    """Return in what two tests' data of the same cases differ, or None: labels or voxel sizes corrected, or others'."""
    for key, what in (("references", "reference masks"), ("spacings", "voxel sizes")):
        ours, theirs = (each if isinstance(each := header.get(key), dict) else {} for header in headers)
        if other := [case for case, known in ours.items() if known and theirs.get(case) not in (None, known)]:
            return f"their {what} differ, of {', '.join(other[:3])}{' …' * (len(other) > 3)} ({len(other)})"
    return None


def unlike_rules(name, ours, theirs, a, b):
    """Return by which conventions a metric is of two tests, where that is known and differs, or None."""
    one, other = ours.get(name), theirs.get(name)
    return None if None in (one, other) or one == other else f"{name}: {_rule(one)} in {a}, {_rule(other)} in {b}"


def unlike_sets(what, ours, theirs, a, b):
    """Return what one of two tests has alone, or None."""
    alone = [f"{', '.join(sorted(s)[:3])}{' …' * (len(s) > 3)} ({len(s)}) in {where} alone"
             for s, where in ((ours - theirs, a), (theirs - ours, b)) if s]  # fmt: skip
    return f"{what} differ: {'; '.join(alone)}" if alone else None


def cases_of(scores):
    """Return the cases of scores by class and case."""
    return {case for each in scores.values() for case in each}


def _rule(convention):
    return f"convention {convention.get('preset')} in {convention.get('unit')}"
