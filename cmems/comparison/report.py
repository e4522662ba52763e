"""One report of a comparison: tables of mean ± sd beside the paper's figures, for people, machines and the terminal."""

import csv
import io
import itertools
import math
import statistics
from pathlib import Path

from cmems.comparison import paper
from cmems.comparison.entries import METRICS, gather, paper_cell, spread
from cmems.comparison.formats import markdown, page, picture_of, terminal
from cmems.comparison.paired import (
    COLUMNS,
    case_means,
    cases_of,
    drawn,
    paired,
    unlike_data,
    unlike_rules,
    unlike_sets,
)
from cmems.comparison.rows import family
from cmems.evaluation.conventions import DIAGONAL, PRESETS
from cmems.files import whole_file
from cmems.visualization.tables import csv_cell, write_csv


def write_report(suite, plan, failures, folder):
    """Write ``report.md``, ``report.csv``, ``report_pairs.csv``, ``report.html`` and ``report.png``.

    Args:
        suite (Suite): What was compared.
        plan (list[dict]): Of :func:`cmems.comparison.compare.plan_runs`.
        failures (dict): Why a run failed, by its folder.
        folder (str | Path): Where to.

    Returns:
        dict: ``text``, for the terminal; ``files``, the paths; ``entries``, the figures.
    """
    folder = Path(folder)
    entries = [gather(planned, failures) for planned in plan]
    by_dataset = {d: [e for e in entries if e["dataset"] == d] for d in dict.fromkeys(e["dataset"] for e in entries)}
    picture = picture_of(suite, by_dataset)
    blocks, text = [("heading", suite.title), ("text", _legend(entries))], []
    blocks += [("text", note) for note in suite.notes]
    pairs = []
    for dataset, group in by_dataset.items():
        notes = _notes(dataset) if any(e["paper"] for e in group) else []
        blocks += [("heading", dataset), *(("text", note) for note in notes)]
        for metric, which in itertools.product(METRICS, ("cells", "cleaned")):
            if table := _table(group, metric, which):
                blocks += [("text", table["title"]), ("table", table)]
                text += ["", f"{dataset}: {table['title']}", terminal(table)]
        blocks += [("table", t) for t in (_exemplar_table(group, "values"), _exemplar_table(group, "cleaned")) if t]
        best, compared, unpaired = _pairs(group)
        if compared:
            columns, cells = drawn(compared, (best, "row"))
            labels = [f"{row['row']}, {row['metric']}" for row in compared]
            table = dict(columns=columns, rows=[[label, *c[1:]] for label, c in zip(labels, cells, strict=True)])
            blocks += [("text", _PAIRED), ("table", table)]
            text += ["", f"{dataset}: {_PAIRED}", terminal(table)]
            pairs += compared
        ordering, troubles = _order(group), [*unpaired, *_troubles(group)]
        blocks += [("plain", line) for line in (*ordering, *troubles)]
        text += [*ordering, *troubles]
    blocks += [("picture", picture), ("heading", "Runs"), ("table", _runs_table(entries))]
    _write(folder / "report.png", picture)
    _write(folder / "report.md", markdown(blocks).encode())
    _write(folder / "report.html", page(suite.title, blocks).encode())
    _write(folder / "report.csv", _csv(entries).encode())
    write_csv(folder / "report_pairs.csv", pairs, _PAIR_COLUMNS)
    files = [folder / f"report{end}" for end in (".md", ".csv", "_pairs.csv", ".html", ".png")]
    return dict(text="\n".join([*text, ""]), files=files, entries=entries)


_PAIR_COLUMNS = ("dataset", "row", "reference", *COLUMNS)
_PAIRED = (
    "Each row against the one of highest mean DSC that learns from one slice, case by case; a case is the mean over "
    "classes and the runs that both rows have; a distance to what was never found is left out. 95 % by bootstrap over "
    "cases; p of Wilcoxon's signed-rank test, not corrected for the number of rows. ACDC's two frames of a patient are "
    "one case, their mean."
)
_LEGEND = (
    "Cells: mean ± standard deviation over seeds and exemplars{paper}. Each run counts with its "
    "ensemble, or its network 1 where it has no other, of last.pth, as it is; where its config cleans up, in tables "
    "that say so, once more. Missed: organs of volumes of which nothing was found, as it is, over all runs; above each "
    "table stands what they count in its means. [1 of 3]: of so many runs alone, as the others found none."
)


def _legend(entries):
    return _LEGEND.format(paper=", and (the paper's figure)" if any(e["paper"] for e in entries) else "")


def _number(cell, decimals, runs=0):
    """Return a cell's text, which says where fewer than so many runs have the value."""
    if cell is None:
        return "n/a"
    some = f" [{cell[2]} of {runs}]" if len(cell) > 2 and cell[2] < runs else ""
    return f"{cell[0]:.{decimals}f}" + ("" if cell[1] is None else f" ± {cell[1]:.{decimals}f}") + some


def _table(group, metric, which):
    """Return a metric's table of what was found: ``cells``, as it is, or ``cleaned`` up; None where no row has that."""
    group, as_it_is = [e for e in group if e[which]], which == "cells"
    if not group:
        return None
    classes = max((e["classes"] for e in group), key=len)
    rows = []
    for entry in group:
        cells, done = [], sum(r["state"] == "done" for r in entry["runs"])
        for column in ("mean", *classes):
            theirs = paper_cell(entry, metric, column) if as_it_is else None
            theirs = "" if theirs is None else f" ({_number(theirs, METRICS[metric])})"
            cells.append(_number(entry[which][metric].get(column), METRICS[metric], done) + theirs)
        failed = sum(r["state"].startswith("failed") for r in entry["runs"])
        count = f"{done}" + f", {failed} failed" * bool(failed)
        missed = [f"{entry['missed']} of {entry['volumes']}"] * as_it_is
        rows.append([entry["label"], *cells, *missed, count])
    rules = [r["found"]["rules"].get(metric, {}) for e in group for r in e["runs"] if r["found"]]
    units = {each.get("unit") for each in rules} - {None}
    splits = {r["found"]["split"] for e in group for r in e["runs"] if r["found"]}
    title = metric + (f" in {'/'.join(sorted(units))}" if metric == "HD95" and units else "")
    title += ", cleaned up" * (not as_it_is)
    title += f", split {'/'.join(sorted(splits))}" if splits else ""
    title += ", mean ± sd" + " (paper)" * (as_it_is and any(e["paper"] for e in group))
    counts = {name: _counted(name, metric) for name in sorted({each.get("preset") for each in rules} & set(PRESETS))}
    if len(set(counts.values())) == 1:
        title += f"; a missed organ counts {counts.popitem()[1]}"
    elif counts:
        title += f"; a missed organ counts {', '.join(f'{how} by {name}' for name, how in counts.items())}"
    return dict(title=title, columns=["", "mean", *classes, *["missed"] * as_it_is, "runs"], rows=rows)


def _counted(preset, metric):
    """Say what an organ of which nothing is found counts in a metric's mean."""
    value = getattr(PRESETS[preset], metric.lower())["missed"]
    if value == DIAGONAL:
        return "the volume's diagonal"
    return "nothing" if math.isnan(value) else f"{value:g}"


def _exemplar_table(group, which):
    """Return mean DSC by exemplar, where there are several: ``values`` as they are, or ``cleaned`` up."""
    group = [e for e in group if which == "values" or e["cleaned"]]
    names = list(dict.fromkeys(r["exemplar"] for e in group for r in e["runs"] if r["exemplar"] != "-"))
    if len(names) < 2:
        return None
    rows = []
    for entry in group:
        values = {n: [_mean_dsc(r, which) for r in entry["runs"] if r["found"] and r["exemplar"] == n]
                  for n in names}  # fmt: skip
        rows.append([entry["label"], *(_number(spread(values[n]), 3) for n in names)])
    return dict(columns=["DSC by exemplar" + ", cleaned up" * (which == "cleaned"), *names], rows=rows)


def _mean_dsc(run, which="values"):
    """Return a run's mean DSC; None where it was not measured."""
    return run["found"][which].get("DSC", {}).get("mean")


def _order(group):
    """Say which pairs of rows stand the other way round than in the paper, by mean DSC."""
    ranked = [(e, e["cells"]["DSC"].get("mean"), paper_cell(e, "DSC", "mean")) for e in group]
    ranked = [item for item in ranked if item[1] and item[2]]
    pairs = [(a, b) for a, b in itertools.combinations(ranked, 2) if a[2][0] != b[2][0]]
    if not pairs:
        return []
    swapped = []
    for a, b in pairs:
        low, high = (a, b) if a[2][0] < b[2][0] else (b, a)  # in the paper
        if low[1][0] < high[1][0]:
            continue
        near = low[1][0] - high[1][0] <= math.hypot(low[1][1] or 0, high[1][1] or 0)
        relation = "=" if low[1][0] == high[1][0] else ">"
        swapped.append(
            f"{low[0]['label']} {low[1][0]:.3f} {relation} {high[0]['label']} {high[1][0]:.3f} "
            f"(paper {low[2][0]:.3f} < {high[2][0]:.3f}{'; within the deviation' * near})"
        )
    if not swapped:
        return [f"Order by DSC: as in the paper, in every pair ({len(pairs)})."]
    return [f"Order by DSC: {len(swapped)} of {len(pairs)} pairs differ from the paper: {'; '.join(swapped)}."]


def _pairs(group):
    """Compare every row with the best that learns from one slice, of those with the most runs, over the runs of both.

    Returns:
        tuple[str | None, list[dict], list[str]]: That row's label; rows of ``_PAIR_COLUMNS``; and what is not compared,
        or not of all runs and cases, as the rows have others or were tested otherwise.
    """
    done = [e for e in group if e["cells"]["DSC"].get("mean")]
    most = max((len(_done(e)) for e in done if e["one_slice"]), default=0)
    best = max(
        (e for e in done if e["one_slice"] and len(_done(e)) == most),
        key=lambda e: e["cells"]["DSC"]["mean"][0],
        default=None,
    )
    rows, odd = [], {}
    for metric in METRICS:
        for entry in done if best else ():
            if entry is not best and entry["cells"][metric].get("mean"):
                labels = best["label"], entry["label"]
                runs, alone = _shared(best, entry, labels)
                if alone:
                    how = "Compared over the runs of both alone" if runs[0] else "Not compared"
                    odd[f"{how}: {' and '.join(labels)}: {alone}."] = None
                ours, theirs = (_by_case(each, metric) for each in runs)
                if not ours:
                    continue
                cases = cases_of(ours), cases_of(theirs)
                unlike = _unlike(best, entry, metric) or unlike_sets("classes", set(ours), set(theirs), *labels)
                fewer = unlike_sets("cases", *cases, *labels)
                if unlike or not cases[0] & cases[1]:
                    odd[f"Not compared: {' and '.join(labels)}: {unlike or fewer}."] = None
                    continue
                if fewer:
                    odd[f"Compared on the cases of both alone: {' and '.join(labels)}: {fewer}."] = None
                found = paired(*case_means(ours, theirs))
                known = dict(dataset=entry["dataset"], row=entry["label"], reference=best["label"], metric=metric)
                rows.append({**known, "class": "mean", **found})
    return best and best["label"], rows, list(odd)


def _unlike(one, other, metric):
    """Return why two rows' scores of a metric are not to be compared, or None."""
    tests = [[run["found"] for run in entry["runs"] if run["found"]] for entry in (one, other)]
    for ours, theirs in itertools.product(*tests):
        data = unlike_data(ours["header"], theirs["header"])
        if odd := data or unlike_rules(metric, ours["rules"], theirs["rules"], one["label"], other["label"]):
            return odd
    return None


def _done(entry):
    """Return what a row's finished runs found, by exemplar and seed."""
    return {(run["exemplar"], run["seed"]): run["found"] for run in entry["runs"] if run["found"]}


def _shared(one, other, labels):
    """Return what the runs found that two rows have both, in one order, of each; and which one has alone, or None.

    Full supervision has no exemplar: its runs are compared with all of another row.
    """
    runs = [_done(row) for row in (one, other)]
    if any(exemplar == "-" for mine in runs for exemplar, _ in mine):
        return [[*mine.values()] for mine in runs], None
    named = ({f"exemplar {exemplar} seed {seed}" for exemplar, seed in mine} for mine in runs)
    both = [key for key in runs[0] if key in runs[1]]
    return [[mine[key] for key in both] for mine in runs], unlike_sets("runs", *named, *labels)


def _by_case(runs, metric):
    """Return the scores of several runs by class and case, their means, of cases that all of them scored."""
    runs = [found["cases"].get(metric, {}) for found in runs]
    return {
        c: {case: statistics.mean(run.get(c, {}).get(case, math.nan) for run in runs) for case in scores}
        for c, scores in (runs[0] if runs else {}).items()
    }


def _troubles(group):
    """Say what failed, did not run, or was missed."""
    lines = [f"{run['name']}: {run['state']}" for e in group for run in e["runs"] if run["state"].startswith("failed")]
    waiting = sum(run["state"] == "not run" for e in group for run in e["runs"])
    lines += [f"{waiting} run(s) are still to do."] * bool(waiting)
    missed = [
        f"{e['label']} {', '.join(f'{c} {n}' for c, n in e['misses'].items() if n)}" for e in group if e["missed"]
    ]
    return [*lines, *([f"Missed: {'; '.join(missed)}."] if missed else [])]


def _notes(dataset):
    kin = family(dataset)
    return [paper.NOTES["phantom"].format(family=kin)] if kin and dataset.startswith("phantom") else []


def _runs_table(entries):
    columns = ["row", "data", "exemplar", "seed", "state", "DSC", "model", "config", "commit", "torch", "threads",
               "s", "folder"]  # fmt: skip
    rows = []
    for entry in entries:
        for run in entry["runs"]:
            found = run["found"] or dict(facts={}, model="")
            facts = found["facts"]
            dsc = _number(spread([_mean_dsc(run)]), 3) if run["found"] else ""
            rows.append([entry["label"], run["dataset"], run["exemplar"], str(run["seed"]), run["state"], dsc,
                         found["model"].replace("_", " "), run["base"],
                         *(str(facts.get(k) or "") for k in ("commit", "torch", "threads", "seconds")),
                         run["folder"]])  # fmt: skip
    return dict(columns=columns, rows=rows)


def _csv(entries):
    """Write one line per data set, row, metric and class; full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ["dataset", "row", "metric", "class", "mean", "sd", "n", "paper", "paper_sd", "missed", "failed"]
    writer.writerow([*columns, "cleaned", "cleaned_sd"])
    for e in entries:
        failed = sum(r["state"].startswith("failed") for r in e["runs"])
        for metric in METRICS:
            for column in ("mean", *e["classes"]):
                ours = e["cells"][metric].get(column) or (None, None, 0)
                theirs = paper_cell(e, metric, column) or (None, None)
                missed = e["missed"] if column == "mean" else e["misses"][column]
                cleaned = (e["cleaned"].get(metric, {}).get(column) or (None, None))[:2]
                row = [e["dataset"], e["label"], metric, column, *ours, *theirs, missed, failed, *cleaned]
                writer.writerow(map(csv_cell, row))
    return out.getvalue()


def _write(path, content):
    with whole_file(path) as part:
        part.write_bytes(content)
