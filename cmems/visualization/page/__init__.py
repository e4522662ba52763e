"""A run as one HTML file: scores, cases to page through, curves, config. It needs no other file and no network."""

import base64
import hashlib
import html
import io
import json
import math
import re
from pathlib import Path

from PIL import Image

from cmems.errors import InputError, printable
from cmems.files import whole_file
from cmems.visualization.colors import class_colors, hex_color
from cmems.visualization.curves import curve_panels
from cmems.visualization.page.cases import about, coded, heat_stops, small
from cmems.visualization.page.charts import curve_figure, distribution_figure
from cmems.visualization.page.markup import table, tag, written
from cmems.visualization.tables import DISTANCES, count_lines, known_value, metric_title, model_label, table_cell

__all__ = ["small", "write_page"]

_TEMPLATE = Path(__file__).with_name("page.html")
_BETTER = dict(DSC="higher is better", Jaccard="higher is better", HD95="lower is better", ASSD="lower is better")
_LISTED = 1000  # cases in the table


def write_page(
    path, title, facts, notes, classes, models, metrics, trust, shown, histories, texts, megabytes, learnt=()
):
    """Write a run's page; a whole file or none.

    Args:
        path (str | Path): Where to.
        title (str): Of the run.
        facts (dict[str, str]): What the page is of, in few words each.
        notes (list[str]): What a reader must know of the numbers.
        classes (sequence[str]): Foreground classes.
        models (sequence[str]): As predictions name them; the last is the one whose masks a user gets.
        metrics (sequence): That computed, with ``convention``, ``summary`` and ``cases``; empty without a reference.
        trust (list[dict]): Of every case and class, see :func:`cmems.apis.trust.trust_rows`; the first cases come first
            in the table.
        shown (dict[str, list[dict]]): Volumes of :func:`small` under headings.
        histories (dict[str, list[dict]]): Rows of :func:`cmems.visualization.curves.read_history` under headings.
        texts (dict[str, str]): Long texts, folded, by heading.
        megabytes (float): What the page may take; slices are left out until it does.
        learnt (dict[str, str | Path]): Pictures of what the run learnt from, by heading.

    Returns:
        list[str]: What was left out, in sentences; the page has them too.

    Raises:
        InputError: The page is larger than that without any slice.
    """
    best = models[-1]
    dsc = next((each for each in metrics if each.convention["metric"] == "DSC"), None)
    scores = {metric.convention["metric"]: _by_case(metric, best) for metric in metrics}
    empty = {(r["case"], r["cls"]): r["status"] for m in metrics for r in m.cases if r["model"] == best}
    cases = list(dict.fromkeys(row["scan"] for row in trust))
    places = {each["case"]: n for n, each in enumerate(each for group in shown.values() for each in group)}
    left = [] if len(cases) <= _LISTED else [f"the table has {_LISTED} of {len(cases)} cases"]
    sections = dict(
        facts=written(tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts.items()), class_="facts")),
        scores=written(*_score_tables(metrics, classes)),
        distributions=written(*(distribution_figure(m, classes, list(m.summary), model_label) for m in metrics)),
        cases=written(_case_table(cases[:_LISTED], classes, trust, scores, empty, places, model_label(best))),
        curves=written(*_curve_parts(histories)),
        learnt=written(*(part for heading, file in dict(learnt).items() for part in _picture(heading, file))),
        texts=written(*(_folded(heading, text) for heading, text in texts.items())),
        heat=f"linear-gradient(to right, {', '.join(heat_stops())})",
        title=html.escape(printable(title)),
    )
    template = _TEMPLATE.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    sections["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = dict(
        classes=[
            dict(name=c, color=hex_color(rgb)) for c, rgb in zip(classes, class_colors(len(classes)), strict=True)
        ],
        best=model_label(best),
        cases=[],
    )
    room = megabytes * 1e6 - sum(map(len, [template, *sections.values()])) - 2000 - 500 * len(places)
    if room < 0:
        raise InputError(f"{path}: expected a page of at most {megabytes:g} MB, but its tables and curves take more")
    data["cases"], thinned = _fitting(shown, room, dsc, places)
    told = tag("ul", *(tag("li", note) for note in [*notes, *left, *thinned]))
    div = tag("div", told, class_="notes", role="note", aria_label="What to know of this page")
    sections["notes"] = written(div) if [*notes, *left, *thinned] else ""
    sections["data"] = json.dumps(_known(data), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    with whole_file(path) as part:
        part.write_text(re.sub(r"\{\{(\w+)\}\}", lambda found: sections[found[1]], template), encoding="utf-8")
    return left + thinned


def _picture(heading, file):
    """Return a heading and a picture, as JPEG within the page."""
    packed = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(packed, "JPEG", quality=85)
        width, height = image.size
    source = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    what = "The labelled slices, and those that their labels were carried to; dark is unknown"
    return (
        tag("h3", heading),
        tag("p", f"{what}.", class_="quiet"),
        tag("img", src=source, alt=what, width=width, height=height, class_="whole", loading="lazy"),
    )


def _score_tables(metrics, classes):
    """Return a table per metric: a row per model, a column per class; below them what means do not tell."""
    if not metrics:
        return [tag("p", "Nothing was measured; the notes say why.")]
    found = []
    for metric in metrics:
        cases = len({row["case"] for row in metric.cases})
        words = [metric_title(metric.convention), _BETTER.get(metric.convention["metric"])]
        words += [f"mean ± sd over {cases} volume{'s' * (cases != 1)}", f"convention {metric.convention['preset']}"]
        rows = []
        for model in metric.summary:
            cells = []
            for column in ("mean", *classes):
                entry = metric.summary[model].get(column, {})
                median = entry.get("median")
                known = median is not None and math.isfinite(median)
                cells.append(
                    tag(
                        "td",
                        table_cell(metric, model, column, "mean", True),
                        title=f"median {median:.3g}" if known else None,
                    )
                )
            rows.append([model_label(model), *cells])
        found.append(table("; ".join(filter(None, words)), ["model", "all classes", *classes], rows, class_="numbers"))
    lines = count_lines(metrics, classes)
    return [tag("div", *found, class_="tables"), tag("ul", *(tag("li", line) for line in lines), class_="quiet")]


def _case_table(cases, classes, trust, scores, empty, places, best):
    names = list(scores)
    agree = dict(agreement="networks agree", views_agreement="views agree")
    agree = {key: text for key, text in agree.items() if any(math.isfinite(row[key]) for row in trust)}
    columns = ["case", *(f"{name} {c}" for name in names for c in ("all", *classes)), *agree.values()]
    columns += [*(f"{c}, ml" for c in classes), "note"]
    rows, by_case = [], {}
    for row in trust:
        by_case.setdefault(row["scan"], []).append(row)
    for case in cases:
        mine = by_case[case]
        number = places.get(case)
        button = None if number is None else tag("button", case, type="button", class_="show", data_case=number)
        cells = [tag("th", case if button is None else button, scope="row")]
        for name in names:
            values = scores[name].get(case, {})
            for cls in ("mean", *classes):
                status = empty.get((case, cls), "ok")
                if name in DISTANCES and status != "ok":  # whatever the convention counts it as
                    cells.append(tag("td", status.replace("_", " "), data_value="", class_="quiet"))
                else:
                    cells.append(_cell(values.get(cls), 2 if name in DISTANCES else 3, name not in DISTANCES))
        cells += [_cell(_mean([row[key] for row in mine]), 3, True) for key in agree]
        cells += [_cell(row["ml"], 1) for row in mine]
        cells.append(tag("td", "; ".join(f"{row['class']}: {row['note']}" for row in mine if row["note"])))
        rows.append(cells)
    heads = [tag("th", tag("button", each, type="button", class_="sort"), scope="col") for each in columns]
    how = "; a name that is a button is shown above" if places else ""
    return table(f"Every case, {best}{how}; a heading sorts", heads, rows, class_="numbers cases")


def _cell(value, decimals, share=False):
    if value is None or not math.isfinite(value):
        return tag("td", "–", data_value="")
    bar = f"--share:{100 * min(max(value, 0), 1):.0f}%" if share else None
    return tag("td", f"{value:.{decimals}f}", data_value=f"{value:.6g}", style=bar, class_="share" if share else None)


def _by_case(metric, model):
    """Return a model's values by case and class, and their mean."""
    found, name = {}, metric.convention["metric"]
    for row in metric.cases:
        if row["model"] == model:
            found.setdefault(row["case"], {})[row["cls"]] = known_value(name, row["status"], row["value"])
    for values in found.values():
        values["mean"] = _mean(values.values())
    return found


def _mean(values):
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _curve_parts(histories):
    for heading, history in histories.items():
        if len(histories) > 1:
            yield tag("h3", heading)
        prefix = f"{heading}, " if len(histories) > 1 else ""
        yield tag("div", *(curve_figure(panel, prefix) for panel in curve_panels(history)), class_="figures")


def _folded(heading, text):
    held = tag("pre", text, tabindex=0, role="region", aria_label=heading)
    return tag("details", tag("summary", heading), held, aria_label=heading)


def _fitting(shown, room, dsc, places):
    """Return the cases as the page's script reads them, each within its share of ``room`` characters."""
    found, left = [], []
    by_model = {} if dsc is None else {model_label(model): _by_case(dsc, model) for model in dsc.summary}
    for heading, group in shown.items():
        for each in group:
            slices, step = _within(each, room / len(places))
            dice = {name: values.get(each["case"]) for name, values in by_model.items()}
            known = dict(
                about(each), group=heading, start=_start(each, slices), dsc={name: v for name, v in dice.items() if v}
            )
            found.append(dict(known, shown=slices))
            if step > 1:
                left.append(f"{each['case']}: shown are {len(slices)} of its {len(each['image'])} slices")
    return found, left


def _start(each, slices):
    """Return which of the slices comes first: of those that are annotated, if any, the one nearest to the middle."""
    reference = each["masks"].get("reference")
    known = [n for n, one in enumerate(slices) if reference is None or (reference[one["z"]] != 255).any()]
    return min(known or range(len(slices)), key=lambda n: abs(n - len(slices) // 2))


def _within(each, room):
    """Return every slice of a case, or every second, third … so that they take at most ``room``; and which of these."""
    depth = len(each["image"])
    few = range(0, depth, max(1, depth // 8))  # enough to guess from
    step = max(1, math.ceil(_length(coded(each, few)) / len(few) * depth / room))
    while True:
        slices = coded(each, range(min(step // 2, depth - 1), depth, step))
        if len(slices) == 1 or _length(slices) <= room:
            return slices, step
        step += 1


def _length(slices):
    return sum(len(json.dumps(one)) for one in slices)


def _known(value):
    """Return ``value`` as JSON knows it: what is not a number becomes null, no name steers a terminal."""
    if isinstance(value, dict):
        return {printable(k): _known(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(value) if isinstance(value, str) else value
