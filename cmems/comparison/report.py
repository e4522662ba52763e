"""One report of a comparison: tables of mean ± sd beside the paper's figures, for people, machines and the terminal."""

import base64
import csv
import html
import io
import itertools
import json
import math
import re
import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from prettytable import PrettyTable

from cmems.comparison import paper
from cmems.comparison.paired import COLUMNS, case_means, drawn, paired, read_scores
from cmems.comparison.rows import family
from cmems.files import whole_file
from cmems.visualization.tables import csv_cell, lost, write_csv

METRICS = dict(DSC=3, HD95=2)  # decimals
_OURS, _PAPER = "#0072B2", "#D55E00"
_STYLE = """body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }
td, th { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }"""


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
    entries = [_entry(planned, failures) for planned in plan]
    by_dataset = {d: [e for e in entries if e["dataset"] == d] for d in dict.fromkeys(e["dataset"] for e in entries)}
    picture = _plot(suite, by_dataset)
    blocks, text = [("heading", suite.title), ("text", _legend(entries))], []
    blocks += [("text", note) for note in suite.notes]
    pairs = []
    for dataset, group in by_dataset.items():
        notes = _notes(dataset) if any(e["paper"] for e in group) else []
        blocks += [("heading", dataset), *(("text", note) for note in notes)]
        for metric in METRICS:
            table = _table(group, metric)
            blocks += [("text", table["title"]), ("table", table)]
            text += ["", f"{dataset}: {table['title']}", _terminal(table)]
        blocks += [("table", t) for t in [_exemplar_table(group)] if t]
        best, compared = _pairs(group)
        if compared:
            columns, cells = drawn(compared, (best, "row"))
            labels = [f"{row['row']}, {row['metric']}" for row in compared]
            table = dict(columns=columns, rows=[[label, *c[1:]] for label, c in zip(labels, cells, strict=True)])
            blocks += [("text", _PAIRED), ("table", table)]
            text += ["", f"{dataset}: {_PAIRED}", _terminal(table)]
            pairs += compared
        ordering, troubles = _order(group), _troubles(group)
        blocks += [("plain", line) for line in (*ordering, *troubles)]
        text += [*ordering, *troubles]
    blocks += [("picture", picture), ("heading", "Runs"), ("table", _runs_table(entries))]
    _write(folder / "report.png", picture)
    _write(folder / "report.md", _markdown(blocks).encode())
    _write(folder / "report.html", _html(suite.title, blocks).encode())
    _write(folder / "report.csv", _csv(entries).encode())
    write_csv(folder / "report_pairs.csv", pairs, _PAIR_COLUMNS)
    files = [folder / f"report{end}" for end in (".md", ".csv", "_pairs.csv", ".html", ".png")]
    return dict(text="\n".join([*text, ""]), files=files, entries=entries)


_PAIR_COLUMNS = ("dataset", "row", "reference", *COLUMNS)
_PAIRED = (
    "Each row against the one of highest mean DSC that learns from one slice, case by case; a case is the mean over "
    "classes and the row's runs. 95 % by bootstrap over cases; p of Wilcoxon's signed-rank test, not corrected for the "
    "number of rows."
)
_LEGEND = (
    "Cells: mean ± standard deviation over seeds and exemplars{paper}. Each run counts with its "
    "ensemble, or its network 1 where it has no other, of last.pth. Missed: organs of volumes of which nothing was "
    "found, over all runs. HD95 in the unit of its convention; voxels under `transunet`."
)


def _legend(entries):
    return _LEGEND.format(paper=", and (the paper's figure)" if any(e["paper"] for e in entries) else "")


def _entry(planned, failures):
    """Gather a row's runs: ``cells[metric][class]`` is (mean, sd, n), and counts."""
    row, runs = planned["row"], []
    for run in planned["runs"]:
        found = _read(run)
        state = "done" if found else f"failed: {failures[run['folder']]}" if run["folder"] in failures else "not run"
        runs.append(dict(run, state=state, found=found))
    done = [run["found"] for run in runs if run["found"]]
    cells, classes = {}, done[0]["classes"] if done else []
    for metric in METRICS:
        cells[metric] = {c: _spread([d["values"].get(metric, {}).get(c) for d in done]) for c in ("mean", *classes)}
    theirs = row.paper.get(family(planned["dataset"]), {})
    if planned["dataset"].startswith("phantom") and theirs:  # for the order alone
        theirs = dict(DSC=dict(mean=theirs["DSC"]["mean"]))
    return dict(
        dataset=planned["dataset"],
        label=row.label,
        one_slice=row.one_slice,
        sweep=row.sweep,
        cells=cells,
        classes=classes,
        paper=theirs,
        runs=runs,
        missed=sum(d["missed"] for d in done),
        volumes=sum(d["volumes"] for d in done),
        misses={c: sum(d["misses"].get(c, 0) for d in done) for c in classes},
    )


def _read(run):
    """Return what a finished run's files say, or None."""
    folder = Path(run["folder"])
    path = next((p for s in ("test", "val") if (p := folder / f"test_{s}" / "metrics.json").is_file()), None)
    if path is None:
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    classes, summary, values = content["header"]["classes"], content["summary"], {}
    for metric, models in summary.items():
        model = "ensemble" if "ensemble" in models else "network_1"
        unknown = {c for c in ("mean", *classes) if lost(content["conventions"][metric], models[model], c)}
        values[metric] = {c: None if c in unknown else models[model][c]["mean"] for c in ("mean", *classes)}
        misses = {c: models[model][c]["missed"] for c in classes}
        volumes = sum(models[model][c]["volumes"] for c in classes)
    facts = folder / "run.json"
    facts = json.loads(facts.read_text()) if facts.is_file() else {}
    split, unit = path.parent.name.removeprefix("test_"), content["conventions"].get("HD95", {}).get("unit")
    counts = dict(misses=misses, missed=sum(misses.values()), volumes=volumes)
    scores, _, _ = read_scores(path.with_suffix(".csv"), (model,))
    known = dict(facts=facts, model=model, split=split, unit=unit, cases=scores)
    return dict(classes=classes, values=values, **known, **counts)


def _spread(values):
    """Return mean, standard deviation (None of one value) and number of the values that are defined."""
    values = [v for v in values if v is not None and not math.isnan(v)]
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def _paper_cell(entry, metric, column):
    """Return (mean, sd or None) as the paper has it, or None."""
    value = entry["paper"].get(metric, {}).get(column)
    if isinstance(value, (tuple, list)):
        return statistics.mean(value), statistics.stdev(value)
    return None if value is None else (value, None)


def _number(cell, decimals):
    if cell is None:
        return "n/a"
    return f"{cell[0]:.{decimals}f}" + ("" if cell[1] is None else f" ± {cell[1]:.{decimals}f}")


def _table(group, metric):
    classes = max((e["classes"] for e in group), key=len)
    rows = []
    for entry in group:
        cells = []
        for column in ("mean", *classes):
            theirs = _paper_cell(entry, metric, column)
            theirs = "" if theirs is None else f" ({_number(theirs, METRICS[metric])})"
            cells.append(_number(entry["cells"][metric].get(column), METRICS[metric]) + theirs)
        done = sum(r["state"] == "done" for r in entry["runs"])
        failed = sum(r["state"].startswith("failed") for r in entry["runs"])
        count = f"{done}" + f", {failed} failed" * bool(failed)
        rows.append([entry["label"], *cells, f"{entry['missed']} of {entry['volumes']}", count])
    units = {r["found"]["unit"] for e in group for r in e["runs"] if r["found"]} - {None}
    splits = {r["found"]["split"] for e in group for r in e["runs"] if r["found"]}
    title = metric + (f" in {'/'.join(sorted(units))}" if metric == "HD95" and units else "")
    title += f", split {'/'.join(sorted(splits))}" if splits else ""
    title += ", mean ± sd" + " (paper)" * any(e["paper"] for e in group)
    return dict(title=title, columns=["", "mean", *classes, "missed", "runs"], rows=rows)


def _exemplar_table(group):
    """Return mean DSC by exemplar, where there are several."""
    names = list(dict.fromkeys(r["exemplar"] for e in group for r in e["runs"] if r["exemplar"] != "-"))
    if len(names) < 2:
        return None
    rows = []
    for entry in group:
        values = {n: [r["found"]["values"]["DSC"]["mean"] for r in entry["runs"] if r["found"] and r["exemplar"] == n]
                  for n in names}  # fmt: skip
        rows.append([entry["label"], *(_number(_spread(values[n]), 3) for n in names)])
    return dict(columns=["DSC by exemplar", *names], rows=rows)


def _order(group):
    """Say which pairs of rows stand the other way round than in the paper, by mean DSC."""
    ranked = [(e, e["cells"]["DSC"].get("mean"), _paper_cell(e, "DSC", "mean")) for e in group]
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
    """Compare every row with the best that learns from one slice: its label, and rows of ``_PAIR_COLUMNS``."""
    done = [e for e in group if e["cells"]["DSC"].get("mean")]
    best = max((e for e in done if e["one_slice"]), key=lambda e: e["cells"]["DSC"]["mean"][0], default=None)
    rows = []
    for metric in METRICS:
        for entry in done if best else ():
            if entry is not best and entry["cells"][metric].get("mean"):
                found = paired(*case_means(_by_case(best, metric), _by_case(entry, metric)))
                known = dict(dataset=entry["dataset"], row=entry["label"], reference=best["label"], metric=metric)
                rows.append({**known, "class": "mean", **found})
    return best and best["label"], rows


def _by_case(entry, metric):
    """Return a row's scores by class and case, the means of its runs, of cases that all of them scored."""
    runs = [run["found"]["cases"].get(metric, {}) for run in entry["runs"] if run["found"]]
    return {
        c: {case: statistics.mean(run.get(c, {}).get(case, math.nan) for run in runs) for case in scores}
        for c, scores in runs[0].items()
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
            dsc = _number(_spread([found["values"]["DSC"]["mean"]]), 3) if run["found"] else ""
            rows.append([entry["label"], run["dataset"], run["exemplar"], str(run["seed"]), run["state"], dsc,
                         found["model"].replace("_", " "), run["base"],
                         *(str(facts.get(k) or "") for k in ("commit", "torch", "threads", "seconds")),
                         run["folder"]])  # fmt: skip
    return dict(columns=columns, rows=rows)


def _terminal(table):
    """Draw a table, the paper's figure on a second line of its cell so that eight organs fit a wide terminal."""
    drawn = PrettyTable(table["columns"])
    for row in table["rows"]:
        drawn.add_row([cell.replace(" (", "\n(") if i else cell for i, cell in enumerate(row)])
    drawn.align = "r"
    drawn.align[table["columns"][0]] = "l"
    return drawn.get_string()


def _markdown(blocks):
    lines = []
    for kind, content in blocks:
        if kind == "heading":
            lines += [f"{'#' if not lines else '##'} {escaped(content)}", ""]
        elif kind in ("text", "plain"):
            lines += [content if kind == "text" else escaped(content), ""]
        elif kind == "picture":
            lines += ["![Mean DSC of every row, and the paper's](report.png)", ""]
        else:
            heading, *rows = (
                "| " + " | ".join(map(escaped, row)) + " |" for row in (content["columns"], *content["rows"])
            )
            lines += [heading, "|" + "---|" * len(content["columns"]), *rows]
            lines.append("")
    return "\n".join(lines)


def escaped(text):
    """Return text that Markdown shows as it is: names of cases, folders and classes, and what a failed run said."""
    text = re.sub(r"([\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([#>+.)-])(?=[#\s])", r"\1\\\2", text)


def _html(title, blocks):
    """Write a page that needs no other file."""
    body = []
    for kind, content in blocks:
        if kind == "heading":
            body.append(f"<{'h2' if body else 'h1'}>{html.escape(content)}</{'h2' if body else 'h1'}>")
        elif kind in ("text", "plain"):
            body.append(f"<p>{html.escape(content)}</p>")
        elif kind == "picture":
            data = base64.b64encode(content).decode()
            body.append(f'<img alt="Mean DSC of every row, and the paper\'s" src="data:image/png;base64,{data}">')
        else:
            rows = ["".join(f"<th>{html.escape(c)}</th>" for c in content["columns"])]
            rows += ["".join(f"<td>{html.escape(c)}</td>" for c in row) for row in content["rows"]]
            body.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
    page = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{page}</head><body>' + "\n".join(body) + "</body></html>\n"


def _csv(entries):
    """Write one line per data set, row, metric and class; full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "row", "metric", "class", "mean", "sd", "n", "paper", "paper_sd", "missed", "failed"])
    for e in entries:
        failed = sum(r["state"].startswith("failed") for r in e["runs"])
        for metric in METRICS:
            for column in ("mean", *e["classes"]):
                ours = e["cells"][metric].get(column) or (None, None, 0)
                theirs = _paper_cell(e, metric, column) or (None, None)
                missed = e["missed"] if column == "mean" else e["misses"][column]
                row = [e["dataset"], e["label"], metric, column, *ours, *theirs, missed, failed]
                writer.writerow(map(csv_cell, row))
    return out.getvalue()


def _plot(suite, by_dataset):
    """Draw mean DSC: bars of every row, or a curve per swept parameter; return the PNG's bytes."""
    sweeps = list(dict.fromkeys(row.sweep[0] for row in suite.rows if row.sweep)) or [None]
    height = 3.6 if sweeps != [None] else 1.2 + 0.42 * len(suite.rows)
    figure = Figure(figsize=(5.5 * max(len(sweeps), 1.4), height * len(by_dataset)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(by_dataset), len(sweeps), squeeze=False)
    for (dataset, group), line in zip(by_dataset.items(), grid, strict=True):
        for sweep, axes in zip(sweeps, line, strict=True):
            if sweep is None:
                _bars(axes, group)
            else:
                _curve(axes, [e for e in group if e["sweep"] and e["sweep"][0] == sweep])
                axes.set_xlabel(sweep)
            axes.set_title(dataset)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=9, framealpha=0.8, edgecolor="none")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _bars(axes, group):
    series = (
        (_OURS, "here", 1, [e["cells"]["DSC"].get("mean") for e in group]),
        (_PAPER, "paper", 0.45, [_paper_cell(e, "DSC", "mean") for e in group]),
    )
    series = series[: 2 if any(series[1][3]) else 1]
    for n, (color, label, alpha, cells) in enumerate(series):
        places = [y + 0.4 * n - 0.2 * (len(series) - 1) for y in range(len(group))]
        axes.barh(places, [cell[0] if cell else 0 for cell in cells], 0.38, color=color, label=label, alpha=alpha)
        for place, cell in zip(places, cells, strict=True):
            if cell and cell[1] is not None:
                axes.errorbar(cell[0], place, xerr=cell[1], color="#222222", capsize=3, linewidth=1)
    axes.set_yticks(range(len(group)), [e["label"] for e in group])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean DSC")


def _curve(axes, group):
    ours = [(e["sweep"][1], *cell[:2]) for e in group if (cell := e["cells"]["DSC"].get("mean"))]
    theirs = [(e["sweep"][1], cell[0]) for e in group if (cell := _paper_cell(e, "DSC", "mean"))]
    axes.errorbar(
        [x for x, _, _ in ours],
        [y for _, y, _ in ours],
        yerr=[sd or 0 for _, _, sd in ours],
        color=_OURS,
        marker="o",
        capsize=3,
        label="here",
    )
    if theirs:
        axes.plot([x for x, _ in theirs], [y for _, y in theirs], "*", color=_PAPER, markersize=12, label="paper")
    axes.set_ylabel("mean DSC")


def _write(path, content):
    with whole_file(path) as part:
        part.write_bytes(content)
