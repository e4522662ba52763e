"""Do organs fade from the pseudo-labels? Methods whose uncertain pixels become background, by rate and threshold.

cmems compare docs/examples/fading.py --datasets acdc_128 synapse_128 --seeds 0
python docs/examples/fading.py acdc_128 OUT.png

The second draws, of each run, the classes' shares of the pseudo-labels and their DSC, over steps.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

from cmems.comparison.plan import plan_runs
from cmems.comparison.rows import Row
from cmems.comparison.suites import get_suite
from cmems.datasets.prepared import PreparedDataset
from cmems.visualization.colors import class_colors
from cmems.visualization.curves import read_history

# As in equal_steps.py: prepare_data.py acdc RAW data/acdc_plus_64 --spacing 3.25 --crop 64, and synapse RAW
# data/synapse_plus_80 --spacing 4.5 --crop 80.
DATA = {"data/acdc_128": "data/acdc_plus_64", "data/synapse_128": "data/synapse_plus_80"}
IMAGES = 2  # of each source a step
STEPS, SCHEDULE = 2000, 30000  # the first steps of a long training, whose rate has hardly fallen by then

title = "Organs that fade from the pseudo-labels"
datasets = ["acdc_128", "synapse_128"]


def _row(label, method, rate, threshold=0.8, below="background"):
    def options(config):
        sources = {k for k, v in config.train_dataloader.items() if isinstance(v, dict) and "batch_size" in v}
        return {
            "data_root": DATA.get(config.data_root, config.data_root),
            **{f"train_dataloader.{source}.batch_size": IMAGES for source in sorted(sources)},
            "model.pseudo_labeler.threshold": threshold,
            "model.pseudo_labeler.below": below,
            "optim_wrapper.optimizer.lr": rate,
            "param_scheduler.end": SCHEDULE,
            "train_cfg.max_iters": STEPS,
            "train_cfg.val_interval": STEPS // 8,
        }

    return Row(label, f"configs/{method}/unet_{{dataset}}.py", options)


rows = [
    _row("CMEMS as printed, rate 1e-3, τ 0.8", "cmems_printed", 1e-3),
    _row("CMEMS as printed, rate 3e-4, τ 0.8", "cmems_printed", 3e-4),
    _row("CMEMS as printed, rate 1e-3, τ 0.6", "cmems_printed", 1e-3, threshold=0.6),
    _row("CMEMS as printed, rate 1e-3, τ 0.95", "cmems_printed", 1e-3, threshold=0.95),
    _row("MLDS, rate 1e-3, τ 0.8", "mlds", 1e-3),
    _row("ELSNet, rate 1e-3, τ 0.8", "elsnet", 1e-3),
    _row("CMEMS, uncertain pixels left out, rate 1e-3", "cmems", 1e-3, below="ignore"),
]


def draw(dataset, out, work_dir="work_dirs/compare"):
    """Draw the runs of exemplar A and seed 0 that were made, two axes each: shares in % of the pixels, and DSC.

    Args:
        dataset (str): ``acdc_128`` or ``synapse_128``.
        out (str): PNG file to write.
        work_dir (str): As ``cmems compare --work-dir``.
    """
    data = PreparedDataset(DATA[f"data/{dataset}"])
    truth = 100 * np.bincount(np.ravel(data.train_labels()), minlength=256)[1:] / np.size(data.train_labels())
    colors = [tuple(0.8 * c / 255 for c in rgb) for rgb in class_colors(len(data.classes))]
    runs = [entry["runs"][0] for entry in plan_runs(get_suite(__file__), [dataset], [0], ["A"], work_dir)]
    runs = [(run["name"].split(f", {dataset}")[0], rows) for run in runs if (rows := read_history(run["folder"]))]
    if not runs:
        sys.exit(f"{work_dir}: no run of {__file__} on {dataset}; first: cmems compare {__file__} --datasets {dataset}")
    figure = Figure(figsize=(3.1 * len(runs), 5.4), layout="constrained")
    for (name, history), axes in zip(runs, figure.subplots(2, len(runs), sharex=True, squeeze=False).T, strict=True):
        axes[0].set_title(name.replace(", rate", "\nrate"), fontsize=9)
        for k, (organ, color) in enumerate(zip(data.classes, colors, strict=True)):
            steps, shares = series(history, f"share_{organ}")
            kernel = np.ones(10) / 10  # a hundred steps
            if len(shares) > 10:
                axes[0].plot(steps[9:], 100 * np.convolve(shares, kernel, "valid"), color=color, label=organ)
            axes[0].axhline(truth[k], color=color, linestyle=":", linewidth=1)
            scores = next((s for m in ("ensemble", "network_1") if (s := series(history, f"{m}/DSC_{organ}"))[0]), None)
            if scores:
                axes[1].plot(*scores, color=color, marker="o", markersize=3, label=organ)
        axes[0].set_yscale("log")
        axes[0].set_ylim(truth[: len(colors)].min() / 10, 2 * truth[: len(colors)].max())
        axes[1].set(ylim=(0, 1), xlabel="step")
    figure.axes[0].set_ylabel("share of the pseudo-labels, %\n(dotted: of the true labels)")
    figure.axes[len(runs)].set_ylabel("DSC, validation")
    figure.axes[len(runs)].legend(fontsize=8, ncols=2)
    figure.savefig(out, dpi=70, pil_kwargs=dict(optimize=True))


def series(history, key):
    """Return the steps and the values of the rows that have ``key``."""
    found = [(row["step"], row[key]) for row in history if key in row]
    return [step for step, _ in found], [value for _, value in found]


if __name__ == "__main__":
    draw(*sys.argv[1:])
