"""Draw what each part of Ω does to a phantom's exemplar: python docs/examples/synthesis.py DATA OUT.png."""

import sys

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cmems.datasets.sources import TrainData
from cmems.registry import SYNTHESIZERS
from cmems.seeding import Stream
from cmems.visualization.colors import class_colors

EXEMPLAR = dict(case="patient004_frame01", slice=2)
STILL = dict(type="RandomAffine", degrees=0, scale=(1, 1), shift=0, flip=0)
SMALL = dict(STILL, scale=(0.6, 0.6), shift=0.1)
PLAIN = dict(type="RandomGammaGain", gamma=(1, 1), gain=(1, 1))
G = dict(type="RandomAffine", degrees=180, scale=(0.7, 1.4), shift=0.12, flip=0.5)
RADIAL = dict(type="RadialShape", classes=(3,), probability=1.0)
WALL = dict(type="WallShape", cavity=3, wall=2, probability=1.0)
PASTE = dict(type="ExemplarPaste", geometric=STILL, intensity=PLAIN, background_geometric=STILL)
ROWS = {
    "paste alone (Eq. 1)": PASTE,
    "BodyFit, bodies of 0.6": dict(PASTE, background_geometric=SMALL, fit=dict(type="BodyFit", level=0.08)),
    "RandomAffine": dict(PASTE, geometric=G),
    "turned by 60°, then ± 20°": dict(PASTE, geometric=dict(STILL, degrees=20), turns=60),
    "elastic=0.04, control_points=6": dict(PASTE, geometric=dict(STILL, elastic=0.04, control_points=6)),
    "RadialShape": dict(PASTE, geometric=[STILL, RADIAL]),
    "WallShape, outlines": dict(PASTE, geometric=[STILL, WALL], outlines=(1, 2, 3)),
    "OrganJitter": dict(
        PASTE, apart=dict(type="OrganJitter", classes=(1, 2, 3), degrees=30, scale=(0.6, 1.6), shift=0.03)
    ),
    "ClassGain": dict(PASTE, organs=[dict(type="ClassGain", width=0.5)]),
    "PaintClasses": dict(PASTE, organs=[dict(type="PaintClasses", classes=(1, 2, 3), probability=1.0)]),
    "Trabeculae": dict(
        PASTE, organs=[dict(type="Trabeculae", classes=(1, 3), wall=2, probability=1.0, depth=(0.6, 1.0))]
    ),
    "MatchQuantiles": dict(PASTE, organs=[dict(type="MatchQuantiles", share=(1, 1))]),
    "AmplitudeMix": dict(PASTE, organs=[dict(type="AmplitudeMix", strength=(1, 1), probability=1.0)]),
    "margin=4, edge=1": dict(PASTE, margin=4, edge=1),
    'background="unknown", ring=8': dict(PASTE, background="unknown", ring=8),
    "WarpedExemplar": dict(
        type="WarpedExemplar",
        geometric=[dict(G, elastic=0.03, control_points=6), RADIAL],
        intensity=dict(type="RandomGammaGain", gamma=(0.6, 1.7)),
        plain=0.0,
    ),
}
COUNT = 5


def main(data, out):
    """Draw a row per part: the exemplar, then images that differ in their draws and backgrounds."""
    train = TrainData(data, EXEMPLAR)
    (image,), (label,) = train.exemplars
    rows = torch.linspace(3, len(train.store) - 1, COUNT).long()
    figure = Figure(figsize=(11, 1.95 * len(ROWS)), dpi=52, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ROWS), COUNT + 1)
    for (name, config), line in zip(ROWS.items(), axes, strict=True):
        turns = torch.tensor([float(config.get("turns", 0))]).deg2rad()
        synthesizer, stream = SYNTHESIZERS.build({k: v for k, v in config.items() if k != "turns"}), Stream(7)
        on = torch.zeros(COUNT, dtype=torch.int64) if config["type"] == "WarpedExemplar" else train.store[rows]
        images, labels = synthesizer(*train.exemplars, on, stream, turns=turns)
        show(line[0], image[0], label)
        line[0].set_ylabel(name, fontsize=9)
        for ax, each, mask in zip(line[1:], images, labels, strict=True):
            show(ax, each[0], mask)
    axes[0][0].set_title("exemplar", fontsize=10)
    figure.savefig(out, pil_kwargs=dict(optimize=True))


def show(ax, image, label):
    """Draw an image with its labels' outlines; unknown pixels are tinted."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    for k, rgb in enumerate(class_colors(3), 1):
        ax.contour((label == k).float(), [0.5], colors=[tuple(c / 255 for c in rgb)], linewidths=1.2)
    if (label == 255).any():
        ax.imshow(torch.where(label == 255, 1.0, float("nan")), cmap="autumn", vmin=0, vmax=1, alpha=0.35)
    ax.set_xticks([])
    ax.set_yticks([])


if __name__ == "__main__":
    main(*sys.argv[1:])
