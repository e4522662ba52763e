"""Training curves from what the run wrote down, across its resumes."""

import json
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from cmems.files import whole_file
from cmems.visualization.colors import class_colors
from cmems.visualization.tables import model_label

_SHARES_OF_PIXELS = {"share_confident": "confident (at or above τ)", "agreement": "networks agree, on organs"}
_AGREEMENT = "agreement_"  # of one class: Dice of the networks' labels
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_OUTLINE = [withStroke(linewidth=2.6, foreground="#555555")]  # lets the light class colours show on white


def read_history(work_dir):
    """Read the scalars of MMEngine's LocalVisBackend, of all runs of the newest work directory under ``work_dir``.

    A step logged twice (a run resumed from before its end) is what the later run says, and what the earlier run logged
    from there on is dropped. Rows of step 0 are validations outside training and are left out.

    Args:
        work_dir (str | Path): Searched for ``vis_data`` folders.

    Returns:
        list[dict]: One row per step, ascending; training and validation keys of a step in the same row.
    """
    runs = [folder for folder in Path(work_dir).rglob("vis_data") if _scalar_files(folder)]
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


def plot_curves(history, path):
    """Draw losses, confidence and agreement, pseudo-label shares per class, and validation DSC into one PNG.

    Args:
        history (list[dict]): Rows with ``step`` and any of ``loss*``, ``share_confident``, ``agreement``,
            ``share_<class>``, ``agreement_<class>``, ``<model>/DSC``. What no row has is left out.
        path (str | Path): Where to; a whole file or none.
    """
    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    losses, pixels, shares, validation = figure.subplots(2, 2).ravel()
    _draw_losses(losses, history)
    _draw_pixels(pixels, history)
    _draw_shares(shares, history)
    _draw_validation(validation, history)
    for axes in (losses, pixels, shares, validation):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=9, framealpha=0.8, edgecolor="none")
        else:
            axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", color="#777777")
    with whole_file(path) as part:
        figure.savefig(part, format="png")
    return Path(path)


def _draw_losses(axes, history):
    """Draw each loss faintly as logged, boldly smoothed; log scale, since the terms differ by their weights."""
    keys = _keys(history, lambda key: key == "loss" or key.startswith("loss_"))
    for key, color in zip(sorted(keys, key=lambda k: (k != "loss", k)), _LINES * (1 + len(keys)), strict=False):
        color = "#000000" if key == "loss" else color
        steps, values = _series(history, key)
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        label = "total" if key == "loss" else key.removeprefix("loss_")
        axes.plot(steps, _smooth(values), color=color, linewidth=1.8, label=label)
    if any(value > 0 for key in keys for value in _series(history, key)[1]):
        axes.set_yscale("log")
    axes.set_title("loss (with its weight)")


def _draw_pixels(axes, history):
    for (key, label), color in zip(_SHARES_OF_PIXELS.items(), _LINES, strict=False):
        steps, values = _series(history, key)
        if steps:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            axes.plot(steps, _smooth(values), color=color, linewidth=1.8, label=label)
    organs = _keys(history, lambda key: key.startswith(_AGREEMENT))
    for key, rgb in zip(organs, class_colors(len(organs)), strict=True):
        steps, values = _series(history, key)
        label, color = f"networks' Dice, {key.removeprefix(_AGREEMENT)}", tuple(part / 255 for part in rgb)
        axes.plot(steps, _smooth(values), color=color, linewidth=1.4, label=label, path_effects=_OUTLINE)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("pseudo-labels: confident, agreed")


def _draw_shares(axes, history):
    """Draw the organs' shares in percent; a line that falls to zero is a class that the networks gave up."""
    keys = _keys(history, lambda key: key.startswith("share_") and key not in _SHARES_OF_PIXELS)
    background = _series(history, "share_background")[1]
    organs = [key for key in keys if key != "share_background"]
    for key, rgb in zip(organs, class_colors(len(organs)), strict=True):
        steps, values = _series(history, key)
        percent = [100 * value for value in _smooth(values)]
        color = tuple(part / 255 for part in rgb)
        axes.plot(steps, percent, color=color, linewidth=1.8, label=key.removeprefix("share_"), path_effects=_OUTLINE)
    axes.set_ylim(bottom=0)
    now = f" (now {100 * background[-1]:.1f} % background)" if background else ""
    axes.set_title(f"pseudo-labels: % of pixels per class{now}")


def _draw_validation(axes, history):
    keys = _keys(history, lambda key: key.endswith("/DSC"))
    best = ""
    for key, color in zip(keys, _LINES * (1 + len(keys)), strict=False):
        steps, values = _series(history, key)
        model = key.removesuffix("/DSC")
        main = key == ("cleaned/DSC" if "cleaned/DSC" in keys else "ensemble/DSC") or len(keys) == 1
        style = dict(linewidth=2.4, color="#000000", zorder=3) if main else dict(linewidth=1.4, color=color)
        axes.plot(steps, values, marker="o", markersize=4, label=model_label(model), **style)
        if main:
            value, step = max((value, -step) for value, step in zip(values, steps, strict=True))
            axes.plot(-step, value, marker="*", markersize=14, color="#E69F00", markeredgecolor="#000000", zorder=4)
            best = f": best {model_label(model)} {value:.3f} at step {-step}"
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"validation DSC{best}")


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
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] > 0:
            yield row
