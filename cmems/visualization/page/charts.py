"""Curves and distributions as SVG, in the page's own colours."""

import math

import numpy as np

from cmems.visualization.colors import class_colors, hex_color
from cmems.visualization.page.markup import tag
from cmems.visualization.tables import DISTANCES, known_value, metric_title

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_POINTS = 300  # of a line
_DOTS = 100  # of a column
_DASHES = (None, "8 3", "3 2", "12 3 3 3", "5 2")


def curve_figure(panel, prefix=""):
    """Return a figure of a :class:`cmems.visualization.curves.Panel`, with a legend that tells each line's last value.

    Args:
        panel (Panel): What to draw.
        prefix (str): Before its title.
    """
    title = f"{prefix}{panel.title}"
    if not panel.lines:
        return tag("figure", tag("figcaption", tag("b", title), ": nothing was logged"))
    steps = [step for line in panel.lines for step in line.steps]
    values = [value for line in panel.lines for value in [*line.smooth, *(line.values if line.faint else ())]]
    low, high, log = _range(panel.scale, values)
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def place(step, value):
        value = math.log10(max(value, low)) if log else value
        bottom, top = (math.log10(low), math.log10(high)) if log else (low, high)
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - first) / (last - first)
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - bottom) / (top - bottom))

    marks = [_grid(place(first, tick)[1], _number(tick)) for tick in (_decades if log else _ticks)(low, high)]
    for tick in _ticks(first, last, 5):
        marks.append(tag("text", _number(tick), x=_px(place(tick, high)[0]), y=_HEIGHT - 16, text_anchor="middle"))
    marks.append(tag("text", "step", x=_WIDTH - _RIGHT, y=_HEIGHT - 2, text_anchor="end"))
    legend = []
    for n, line in enumerate(panel.lines):
        color = "currentColor" if line.color == "#000000" else line.color
        dash = None if line.main else _DASHES[n % len(_DASHES)]
        if line.faint:
            marks.append(_path(line.steps, line.values, place, stroke=color, class_="faint"))
        width = 2.6 if line.main else 2
        dashed = dict(stroke_dasharray=dash)
        marks.append(_path(line.steps, line.smooth, place, class_="casing", stroke_width=width + 1.6, **dashed))
        marks.append(_path(line.steps, line.smooth, place, stroke=color, stroke_width=width, **dashed))
        if panel.markers:
            for x, y in map(place, line.steps, line.smooth):
                marks.append(tag("circle", cx=_px(x), cy=_px(y), r=3, fill=color, class_="dot"))
        end = _number(line.smooth[-1], 3)
        legend.append(tag("li", _sample(color, dash, width), f" {line.label} ", tag("span", end, class_="quiet")))
    if panel.best:
        x, y = place(*panel.best)
        marks.append(tag("circle", cx=_px(x), cy=_px(y), r=7, class_="ring"))
    ends = ", ".join(f"{line.label} ends at {_number(line.smooth[-1], 3)}" for line in panel.lines)
    drawn = _svg(f"{title}, steps {first} to {last}: {ends}", marks)
    return tag("figure", tag("figcaption", tag("b", title)), drawn, tag("ul", *legend, class_="legend"))


def distribution_figure(metric, classes, models, label_of):
    """Return a figure of every case's value by class and model: a dot each, quartiles as a box, the median as a line.

    Args:
        metric: With ``convention`` and ``cases``, as the metrics of :mod:`cmems.evaluation`.
        classes (sequence[str]): Foreground classes.
        models (sequence[str]): In the order of the columns.
        label_of (callable): Of a model, for people.
    """
    name, found = metric.convention["metric"], {}
    distance = name in DISTANCES
    for row in metric.cases:
        if math.isfinite(value := known_value(name, row["status"], row["value"])):
            found.setdefault((row["cls"], row["model"]), []).append((value, row["case"]))
    values = [value for column in found.values() for value, _ in column] or [0.0]
    low, high, _ = _range("zero" if distance else "share", values)
    width = max(_WIDTH, _LEFT + _RIGHT + 34 * len(classes) * len(models))
    step = (width - _LEFT - _RIGHT) / (len(classes) * (len(models) + 0.6))

    def at(value):
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    marks, told = [_grid(at(tick), _number(tick), width) for tick in _ticks(low, high)], []
    for c, (cls, rgb) in enumerate(zip(classes, class_colors(len(classes)), strict=True)):
        start = _LEFT + step * (c * (len(models) + 0.6) + 0.3)
        middle = start + step * len(models) / 2
        marks.append(tag("text", cls, x=_px(middle), y=_HEIGHT - 4, text_anchor="middle", class_="strong"))
        for m, model in enumerate(models):
            x, column = start + step * (m + 0.5), sorted(found.get((cls, model), []))
            short = label_of(model).replace("network ", "net ")
            marks.append(tag("text", _short(short, step), x=_px(x), y=_HEIGHT - 19, text_anchor="middle"))
            if not column:
                continue
            quarter, median, three = np.percentile([value for value, _ in column], (25, 50, 75))
            if m == len(models) - 1:
                told.append(f"{cls} {_number(median, 3)}")
            top, half = at(three), min(11.0, 0.36 * step)
            box = dict(x=_px(x - half), y=_px(top), width=_px(2 * half), height=_px(max(1.0, at(quarter) - top)))
            marks.append(tag("rect", fill=hex_color(rgb), class_="box", **box))
            keep = np.unique(np.linspace(0, len(column) - 1, min(_DOTS, len(column))).round().astype(int))
            for n, k in enumerate(keep):
                value, case = column[k]
                title = tag("title", f"{case}: {label_of(model)}, {cls} {_number(value, 3)}")
                side = x + half * 0.7 * ((n * 0.618034) % 1 * 2 - 1)
                place = dict(cx=_px(side), cy=_px(at(value)), r=3)
                marks.append(tag("circle", title, fill=hex_color(rgb), class_="dot", **place))
            line = dict(x1=_px(x - half), x2=_px(x + half), y1=_px(at(median)), y2=_px(at(median)))
            marks.append(tag("line", class_="median", **line))
    title = f"{metric_title(metric.convention)}, a dot per case"
    most = max((len(column) for column in found.values()), default=0)
    few = f"; {_DOTS} of {most} dots of a column, evenly by rank" if most > _DOTS else ""
    note = f"box: the middle half of the cases; line: their median{few}"
    drawn = _svg(f"{title}; medians of {label_of(models[-1])}: {', '.join(told) or 'none'}", marks, width)
    return tag("figure", tag("figcaption", tag("b", title), tag("span", f" – {note}", class_="quiet")), drawn)


def _svg(label, marks, width=_WIDTH):
    least = f"min-width:{_px(0.8 * width)}px"  # else it scrolls: smaller, its texts could not be read
    drawn = tag("svg", *marks, viewBox=f"0 0 {_px(width)} {_HEIGHT}", role="img", aria_label=label, style=least)
    return tag("div", drawn, class_="drawn", tabindex=0, role="group", aria_label=label.partition(":")[0])


def _grid(y, text, width=_WIDTH):
    y = _px(y)
    line = tag("line", x1=_LEFT, x2=_px(width - _RIGHT), y1=y, y2=y, class_="grid")
    return tag("g", line, tag("text", text, x=_LEFT - 6, y=y, text_anchor="end", dominant_baseline="middle"))


def _path(steps, values, place, **how):
    """Return a line of at most ``_POINTS`` points, each the mean of its neighbours'."""
    pieces = np.array_split(np.arange(len(steps)), min(_POINTS, len(steps)))
    points = [place(np.mean([steps[i] for i in piece]), np.mean([values[i] for i in piece])) for piece in pieces]
    drawn = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
    return tag("polyline", points=drawn, fill="none", stroke_linejoin="round", **how)


def _sample(color, dash, width):
    line = dict(x1=1, x2=31, y1=5, y2=5, stroke_dasharray=dash)
    casing = tag("line", class_="casing", stroke_width=width + 1.6, **line)
    drawn = tag("line", stroke=color, stroke_width=width, **line)
    return tag("svg", casing, drawn, viewBox="0 0 32 10", width=32, height=10, aria_hidden="true", class_="sample")


def _short(text, step):
    """Return a model's label as a column of ``step`` units has room for."""
    if 5.4 * len(text) <= step:
        return text
    return text[4:] if text.startswith("net ") else text[: max(1, int(step / 6))]


def _range(scale, values):
    """Return what an axis shows, from and to, and whether it is logarithmic."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    if scale == "share":
        return 0.0, 1.0, False
    positive = [value for value in finite if value > 0]
    if scale == "log" and positive:
        low, high = max(min(positive), max(positive) * 1e-6), max(positive)
        return low, max(high, low * 1.5), True
    return 0.0, max(max(finite), 1e-9) * 1.05, False


def _ticks(low, high, count=5):
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw)
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _decades(low, high):
    whole = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    return [f * 10.0**k for k in whole for f in factors if low <= f * 10.0**k <= high] or [low]


def _number(value, digits=6):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _px(value):
    return f"{value:.1f}".rstrip("0").rstrip(".")
