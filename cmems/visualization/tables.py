"""Metrics as the paper's Tables 1 and 2 print them, and as files.

A metric, here, is an object with ``convention``, ``summary`` and ``cases`` as the metrics of :mod:`cmems.evaluation`
keep them once they have computed; other metrics are passed over.
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
_DISTANCES = ("HD95", "ASSD")
_COUNTS = (("missed", "missed", "prediction empty"), ("false", "false", "reference empty"), ("skipped", "skipped", ""))


def metric_table(metrics, classes):
    """Return the table of means, one row per model, and below it what the means do not tell: the counts.

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
    return "\n".join([_title(metrics), *tables, *_footer(metrics, classes)])


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


def write_metrics(path_stem, metrics, header):
    """Write ``<path_stem>.json`` (everything) and ``<path_stem>.csv`` (the rows of :func:`metric_rows`).

    Args:
        path_stem (str | Path): Path without suffix.
        metrics (sequence): DSC and HD95 metrics.
        header (dict): What was evaluated, how; kept as ``header``.

    Returns:
        tuple[Path, Path]: The files. NaN is null in JSON and an empty field in CSV.
    """
    metrics, rows = _ours(metrics), metric_rows(metrics)
    names = [metric.convention["metric"] for metric in metrics]
    content = dict(
        header=header,
        conventions=dict(zip(names, (m.convention for m in metrics), strict=True)),
        summary=dict(zip(names, (m.summary for m in metrics), strict=True)),
        cases=rows,
    )
    json_path, csv_path = Path(f"{path_stem}.json"), Path(f"{path_stem}.csv")
    with whole_file(json_path) as part:
        part.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["case", "model", "class"]
    with whole_file(csv_path) as part, open(part, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: csv_cell(v) for k, v in _plain(row).items()} for row in rows)
    return json_path, csv_path


def csv_cell(value):
    """Return a cell that no spreadsheet runs: text that begins as a formula gets an apostrophe; None becomes empty."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


def model_label(model):
    """Return a model's name for people: ``network_1`` is ``network 1``."""
    return model.replace("_", " ")


def _ours(metrics):
    return [m for m in metrics if getattr(m, "summary", None) and getattr(m, "convention", None)]


def _title(metrics):
    cases = {found["case"] for metric in metrics for found in metric.cases}
    presets = list(dict.fromkeys(str(metric.convention["preset"]) for metric in metrics))
    units = {m.convention["metric"]: m.convention.get("unit") for m in metrics}
    parts = [f"{name} in {unit}" if name in _DISTANCES and unit else name for name, unit in units.items()]
    return f"{', '.join(parts)}; convention {' / '.join(presets)}; mean of {len(cases)} volume{'s' * (len(cases) != 1)}"


def _grid(metrics, classes, spread):
    """Draw one table; its two heading lines are rows, since PrettyTable's headings are one line of unique names."""
    columns = ["mean", *classes]
    table = PrettyTable(header=False)
    table.add_row(["", *(name for m in metrics for name in (m.convention["metric"], *[""] * len(classes)))])
    table.add_row(["model", *["avg", *classes] * len(metrics)], divider=True)
    for model in metrics[0].summary:
        cells = [
            _cell(m, m.summary.get(model, {}).get(c, {}), spread and c != "mean") for m in metrics for c in columns
        ]
        table.add_row([model_label(model), *cells])
    table.align = "r"
    table.align["Field 1"] = "l"
    return table.get_string()


def _cell(metric, entry, spread):
    """Return mean and standard deviation; a dash where there is none, as a distance to what was never found.

    The paper's preset counts such a distance as 0, and is shown as it is.
    """
    name, mean, sd = metric.convention["metric"], entry.get("mean"), entry.get("sd")
    lost = name in _DISTANCES and 0 < entry.get("volumes", 0) == entry.get("missed") and mean == 0
    if mean is None or math.isnan(mean) or (lost and metric.convention["preset"] != "transunet"):
        return "–"
    decimals = _DECIMALS.get(name, 3)
    known = spread and sd is not None and not math.isnan(sd)
    return f"{mean:.{decimals}f}" + (f"±{sd:.{min(decimals, 2) if name not in _DISTANCES else 1}f}" if known else "")


def _footer(metrics, classes):
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
    """Return ``value`` as JSON knows it: NaN and infinities become None, numpy scalars numbers."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)
