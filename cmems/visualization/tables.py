"""Metrics as the paper's Tables 1 and 2 print them, and as files.

A metric, here, is an object with ``convention``, ``summary`` and ``cases`` as the metrics of :mod:`cmems.evaluation`
keep them once they have computed; of other metrics the files keep what they returned, and the table nothing.
"""

import csv
import json
import math
import numbers
from pathlib import Path

from prettytable import PrettyTable

from cmems.files import whole_file

WIDTH = 110
_DECIMALS = {"DSC": 3, "HD95": 2, "ASSD": 2}
DISTANCES = ("HD95", "ASSD")
_COUNTS = (("missed", "missed", "prediction empty"), ("false", "false", "reference empty"), ("skipped", "skipped", ""))


def metric_table(metrics, classes):
    """Return the table of means and medians, one row per model, and below it what they do not tell: the counts.

    Args:
        metrics (sequence): DSC and HD95 metrics.
        classes (sequence[str]): Foreground classes, in the order of the columns.

    Returns:
        str: Several lines. DSC with 3 decimals, HD95 with 2, each class with its standard deviation over volumes where
        the lines have room. With many classes or metrics, one table per metric.
    """
    metrics = _ours(metrics)
    if not metrics:
        return ""
    apart = [[metric] for metric in metrics]
    for groups, spread in ([metrics], True), (apart, True), ([metrics], False), (apart, False):
        tables = [_grid(group, classes, spread) for group in groups]
        if max(len(table.splitlines()[0]) for table in tables) <= WIDTH:
            break
    return "\n".join([_title(metrics), *tables, *count_lines(metrics, classes)])


def metric_rows(metrics):
    """Return one dict per case, model and class with every metric side by side.

    Returns:
        list[dict]: ``case``, ``model``, ``class``, and per metric ``<metric>`` (float, NaN where undefined),
        ``<metric>_status`` and ``<metric>_skipped``.
    """
    rows = {}
    for metric in _ours(metrics):
        name = metric.convention["metric"]
        for found in metric.cases:
            key = found["case"], found["model"], found["cls"]
            row = rows.setdefault(key, dict(zip(("case", "model", "class"), key, strict=True)))
            row[name] = float(found["value"])
            row[f"{name}_status"], row[f"{name}_skipped"] = found["status"], bool(found["skipped"])
    return list(rows.values())


def write_metrics(path_stem, metrics, header, values=None):
    """Write ``<path_stem>.json`` (everything) and two tables of it.

    ``<path_stem>.csv`` holds the rows of :func:`metric_rows`; ``<path_stem>_summary.csv`` a row per metric, model and
    class or ``mean``, and one for each value of another metric.

    Args:
        path_stem (str | Path): Path without suffix.
        metrics (sequence): DSC and HD95 metrics.
        header (dict): What was evaluated, how; kept as ``header``.
        values (dict | None): All that the evaluator returned, one's own metrics' too; kept as ``values``.

    Returns:
        list[Path]: The files. NaN is null in JSON and an empty field in CSV.
    """
    metrics, rows, values = _ours(metrics), metric_rows(metrics), dict(values or {})
    names = [metric.convention["metric"] for metric in metrics]
    content = dict(
        header=header,
        conventions=dict(zip(names, (m.convention for m in metrics), strict=True)),
        summary=dict(zip(names, (m.summary for m in metrics), strict=True)),
        values=values,
        cases=rows,
    )
    files = [Path(f"{path_stem}{end}") for end in (".json", ".csv", "_summary.csv")]
    files[0].unlink(missing_ok=True)  # of an earlier test, whose tables these replace
    write_csv(files[1], rows, ["case", "model", "class"])
    write_csv(files[2], _summary_rows(metrics, values), ["metric", "model", "class", "mean", "sd", "median"])
    with whole_file(files[0]) as part:  # the last, by which a comparison knows that a run was tested
        part.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return files


def _summary_rows(metrics, values):
    """Yield a row per summary entry, then one per value that is no mean of these."""
    ours = set()
    for metric in metrics:
        name = metric.convention["metric"]
        for model, entries in metric.summary.items():
            for c, entry in entries.items():
                ours |= {f"{model}/{name}", f"{model}/{name}_{c}"}
                yield dict({"metric": name, "model": model, "class": c}, **entry)
    yield from (dict(metric=key, mean=value) for key, value in values.items() if key not in ours)


def write_csv(path, rows, columns):
    """Write dicts as a table that no spreadsheet runs, a whole file or none.

    Args:
        path (str | Path): Where to.
        rows (iterable[dict]): NaN becomes an empty field.
        columns (sequence[str]): The first columns, in this order; further keys follow as they come.
    """
    rows = [_plain(row) for row in rows]
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    with whole_file(path) as part, open(part, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: csv_cell(v) for k, v in row.items()} for row in rows)


_RUN = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value):
    """Return a cell that no spreadsheet runs: text that begins as a formula gets an apostrophe; None becomes empty."""
    if isinstance(value, str) and value.lstrip("'").startswith(_RUN):
        return f"'{value}"
    return "" if value is None else value


def csv_text(cell):
    """Return the text that :func:`csv_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_RUN) else cell


def metric_title(convention):
    """Return a metric's name, and its unit where it has one: ``HD95 in voxels``."""
    name, unit = convention["metric"], convention.get("unit")
    unit = "voxels" if unit == "voxel" else unit
    return f"{name} in {unit}" if name in DISTANCES and unit else name


def model_label(model):
    """Return a model's name for people: ``network_1`` is ``network 1``."""
    return model.replace("_", " ")


def _ours(metrics):
    return [m for m in metrics if getattr(m, "summary", None) and getattr(m, "convention", None)]


def _title(metrics):
    cases = {found["case"] for metric in metrics for found in metric.cases}
    presets = list(dict.fromkeys(str(metric.convention["preset"]) for metric in metrics))
    titles = dict.fromkeys(metric_title(m.convention) for m in metrics)
    return (
        f"{', '.join(titles)}; convention {' / '.join(presets)}; mean of {len(cases)} volume{'s' * (len(cases) != 1)}"
    )


def _grid(metrics, classes, spread):
    """Draw one table; its heading lines are rows, since PrettyTable's headings are one line of unique names."""
    columns = ["mean", *classes]
    table = PrettyTable(header=False)
    table.add_row(["", *(name for m in metrics for name in (m.convention["metric"], *[""] * len(classes)))])
    table.add_row(["model", *["avg", *classes] * len(metrics)], divider=True)
    models = list(metrics[0].summary)
    for key in ("mean", "median"):
        if key == "median":
            table.add_row([key, *[""] * len(columns) * len(metrics)])
        for model in models:
            cells = [table_cell(m, model, c, key, spread and c != "mean") for m in metrics for c in columns]
            table.add_row([model_label(model), *cells], divider=key == "mean" and model == models[-1])
    table.align = "r"
    table.align["Field 1"] = "l"
    return table.get_string()


def table_cell(metric, model, column, key, spread):
    """Return mean and standard deviation, or median; a dash where there is none."""
    name, summary = metric.convention["metric"], metric.summary.get(model, {})
    entry = summary.get(column, {})
    value, sd = entry.get(key), entry.get("sd")
    if value is None or math.isnan(value) or lost(metric.convention, summary, column):
        return "–"
    decimals = _DECIMALS.get(name, 3)
    known = spread and key == "mean" and sd is not None and not math.isnan(sd)
    return f"{value:.{decimals}f}" + (f"±{sd:.{min(decimals, 2) if name not in DISTANCES else 1}f}" if known else "")


BEST_FIRST = ("cleaned", "ensemble", "network_1")  # of a run's models, the first that it has stands for it


def known_value(name, status, value):
    """Return a volume's value of a class; NaN for a distance to what was not found or is not there, counted as 0."""
    return math.nan if name in DISTANCES and status in ("missed", "false") and value == 0 else float(value)


def lost(convention, summary, column):
    """Tell whether a distance is one to what was never found, which some conventions count as 0, and none is.

    The paper's preset is shown as it is.

    Args:
        convention (dict): Of the metric.
        summary (dict): Of one model.
        column (str): A class, or ``mean``, which is none where a class has none.
    """
    if convention["metric"] not in DISTANCES or convention["preset"] == "transunet":
        return False
    entries = [entry for c, entry in summary.items() if c == column or (column == "mean" and c != "mean")]
    return any(e["missed"] and not e.get("found", e["volumes"] - e["missed"]) and e["mean"] == 0 for e in entries)


def count_lines(metrics, classes):
    """List the non-zero counts; where all metrics count alike, without naming the metric."""
    lines, none = [], []
    for key, word, why in _COUNTS:
        found = []
        for model in metrics[0].summary:
            for c in classes:
                counts = {}
                for m in metrics:
                    entry = m.summary.get(model, {}).get(c, {})
                    counts[m.convention["metric"]] = (entry.get(key, 0), entry.get("volumes", 0))
                alike = len(metrics) > 1 and len(set(counts.values())) == 1
                for name, (count, volumes) in list(counts.items())[: 1 if alike else None]:
                    if count:
                        metric = "" if alike else f"{name} "
                        found.append(f"{metric}{model_label(model)} {c} {count} of {volumes}")
        if found:
            lines.append(f"{word}{f' ({why})' * bool(why)}: {', '.join(found)}")
        else:
            none.append(f"none {word}")
    return [*lines, ", ".join(none)] if none else lines


def _plain(value):
    """Return ``value`` as JSON knows it: NaN and infinities become None, arrays lists, their scalars numbers."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)
