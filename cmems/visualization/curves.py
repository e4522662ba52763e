"""Training curves from what the run wrote down, across its resumes."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from cmems.files import whole_file
from cmems.visualization.colors import class_colors, hex_color
from cmems.visualization.tables import model_label

_SHARES_OF_PIXELS = {"share_confident": "confident (at or above τ)", "agreement": "networks agree, on organs"}
_AGREEMENT = "agreement_"  # of one class: Dice of the networks' labels
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_OUTLINE = [withStroke(linewidth=2.6, foreground="#555555")]  # lets the light class colours show on white


def read_history(work_dir):
    """Read the scalars of MMEngine's LocalVisBackend, of all runs of a work directory.

    A step logged twice (a run resumed from before its end) is what the later run says, and what the earlier run logged
    from there on is dropped. Rows of step 0 are validations outside training and are left out.

    Args:
        work_dir (str | Path): The work directory, or a folder above some, of which the newest is meant.

    Returns:
        list[dict]: One row per step, ascending; training and validation keys of a step in the same row.
    """
    runs = [folder for folder in Path(work_dir).glob("*/vis_data") if _scalar_files(folder)]
    runs = runs or [folder for folder in Path(work_dir).rglob("vis_data") if _scalar_files(folder)]
    if not runs:
        return []
    newest = max(runs, key=lambda folder: max(f.stat().st_mtime for f in _scalar_files(folder)))
    runs = sorted(folder for folder in runs if folder.parent.parent == newest.parent.parent)
    history, last = {}, 0
    for row in (row for run in runs for file in _scalar_files(run) for row in _rows(file)):
        step = row["step"]
        if step < last:
            history = {known: value for known, value in history.items() if known < step}
        history[step], last = {**history.get(step, {}), **row}, step
    return [history[step] for step in sorted(history)]


class Line(NamedTuple):
    """One line of a panel.

    Attributes:
        label: For the legend.
        color: ``#RRGGBB``.
        steps, values: As logged.
        smooth: The values as they are drawn.
        faint: Draw what was logged too, faintly.
        main: The line that is looked at first.
    """

    label: str
    color: str
    steps: list[int]
    values: list[float]
    smooth: list[float]
    faint: bool = False
    main: bool = False


class Panel(NamedTuple):
    """One set of axes.

    Attributes:
        title: What is drawn; what it comes to.
        lines: The lines; none where nothing was logged.
        scale: ``log``; ``share``, from 0 to 1; or ``zero``, from 0 up.
        markers: Whether each value is marked.
        best: Step and value of the best of the main line, or None.
    """

    title: str
    lines: list[Line]
    scale: str
    markers: bool = False
    best: tuple | None = None


def curve_panels(history):
    """Return what is drawn of a training: losses, confidence and agreement, pseudo-label shares, validation.

    Args:
        history (list[dict]): Rows with ``step`` and any of ``loss*``, ``share_confident``, ``agreement``,
            ``share_<class>``, ``agreement_<class>``, ``<model>/DSC``. What no row has is left out.

    Returns:
        list[Panel]: Four.
    """
    return [_losses(history), _pixels(history), _shares(history), _validation(history)]


def plot_curves(history, path):
    """Draw :func:`curve_panels` into one PNG.

    Args:
        history (list[dict]): See there.
        path (str | Path): Where to; a whole file or none.
    """
    figure = Figure(figsize=(12, 8), dpi=100)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(2, 2).ravel(), curve_panels(history), strict=True):
        for line in panel.lines:
            if line.faint:
                axes.plot(line.steps, line.values, color=line.color, alpha=0.25, linewidth=0.8)
            style = dict(marker="o", markersize=4) if panel.markers else dict(path_effects=_OUTLINE)
            style |= dict(linewidth=2.4, zorder=3) if line.main else dict(linewidth=1.6)
            axes.plot(line.steps, line.smooth, color=line.color, label=line.label, **style)
        if panel.best:
            axes.plot(*panel.best, marker="*", markersize=14, color="#E69F00", markeredgecolor="#000000", zorder=4)
        if panel.scale == "share":
            axes.set_ylim(-0.02, 1.02)
        elif panel.scale == "zero":
            axes.set_ylim(bottom=0)
        elif any(value > 0 for line in panel.lines for value in line.values):
            axes.set_yscale("log")
        axes.set_title(panel.title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            axes.legend(fontsize=9, framealpha=0.8, edgecolor="none")
        else:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color="#777777")
    # Fixed: a constrained layout takes as long as the drawing itself.
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.07, top=0.955, wspace=0.12, hspace=0.28)
    with whole_file(path) as part:
        figure.savefig(part, format="png")
    return Path(path)


def _losses(history):
    """Each loss as logged and smoothed; log scale, since the terms differ by their weights."""
    keys = sorted(_keys(history, lambda key: key == "loss" or key.startswith("loss_")), key=lambda k: (k != "loss", k))
    lines = []
    for key, color in zip(keys, _LINES * (1 + len(keys)), strict=False):
        total = key == "loss"
        label, color = ("total", "#000000") if total else (key.removeprefix("loss_"), color)
        lines.append(_line(history, key, label, color, faint=True, main=total))
    return Panel("loss (with its weight)", lines, "log")


def _pixels(history):
    shares = zip(_SHARES_OF_PIXELS.items(), ("#000000", "#888888"), strict=True)  # classes have the colours
    lines = [_line(history, key, label, color, faint=True) for (key, label), color in shares]
    organs = _keys(history, lambda key: key.startswith(_AGREEMENT))
    for key, rgb in zip(organs, class_colors(len(organs)), strict=True):
        lines.append(_line(history, key, f"networks' Dice, {key.removeprefix(_AGREEMENT)}", hex_color(rgb)))
    return Panel("pseudo-labels: confident, agreed", [line for line in lines if line.steps], "share")


def _shares(history):
    """The organs' shares in percent; a line that falls to zero is a class that the networks gave up."""
    keys = _keys(history, lambda key: key.startswith("share_") and key not in _SHARES_OF_PIXELS)
    background = _series(history, "share_background")[1]
    organs = [key for key in keys if key != "share_background"]
    lines = []
    for key, rgb in zip(organs, class_colors(len(organs)), strict=True):
        lines.append(_line(history, key, key.removeprefix("share_"), hex_color(rgb), times=100))
    now = f" (now {100 * background[-1]:.1f} % background)" if background else ""
    return Panel(f"pseudo-labels: % of pixels per class{now}", lines, "zero")


def _validation(history):
    keys, lines, best = _keys(history, lambda key: key.endswith("/DSC")), [], None
    title = "validation DSC"
    for key, color in zip(keys, _LINES * (1 + len(keys)), strict=False):
        label = model_label(key.removesuffix("/DSC"))
        main = key == ("cleaned/DSC" if "cleaned/DSC" in keys else "ensemble/DSC") or len(keys) == 1
        line = _line(history, key, label, "#000000" if main else color, main=main)
        line = line._replace(smooth=line.values)
        lines.append(line)
        if main:
            value, step = max((value, -step) for value, step in zip(line.values, line.steps, strict=True))
            best, title = (-step, value), f"validation DSC: best {label} {value:.3f} at step {-step}"
    return Panel(title, lines, "share", markers=True, best=best)


def _line(history, key, label, color, times=1, **how):
    steps, values = _series(history, key)
    values = [times * value for value in values]
    return Line(label, color, steps, values, _smooth(values), **how)


def _keys(history, wanted):
    """Return the numeric keys in the order in which they first appear."""
    return list(dict.fromkeys(key for row in history for key in row if wanted(key) and _series([row], key)[0]))


def _series(history, key):
    """Return steps and values of the rows where ``key`` is a finite number."""
    points = [(row["step"], row[key]) for row in history if isinstance(row.get(key), (int, float))]
    points = [point for point in points if math.isfinite(point[1])]
    return [step for step, _ in points], [value for _, value in points]


def _smooth(values):
    """Return the exponential mean over about an eightieth of the curve, without the bias of its start."""
    keep = 1 - 1 / max(1.0, len(values) / 80)
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth


def _scalar_files(folder):
    """Return ``scalars.json``, which holds everything, or else the run's ``<timestamp>.json``."""
    everything = folder / "scalars.json"
    return [everything] if everything.is_file() else sorted(folder.glob("*.json"))


def _rows(file):
    """Yield a file's rows of training; a line that a killed run left half written is no row."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] > 0:
            yield row
