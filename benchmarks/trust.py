"""How well what `predict` says of its masks without a reference ranks their true DSC.

Every validation volume on its own grid, and every training volume but the exemplar's on the networks' (its labels are
read here, for measuring alone): Spearman's rank correlation with the DSC of the written mask, and the area under the
risk-coverage curve, the mean of 1 - DSC over the masks that are kept when the least trusted ones are left out.
`--other CONFIG CHECKPOINT`: another run, whose networks did not teach this one's.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from prettytable import PrettyTable
from scipy.stats import spearmanr

import cmems.models
from cmems.apis import load_config
from cmems.apis.trust import trust_rows
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import read_checkpoint
from cmems.engine.restore import load_weights
from cmems.evaluation import get_convention, score_volume
from cmems.evaluation.agreement import mean_dice, shared_voxels
from cmems.registry import MODELS

SCORES = {
    "networks' agreement": "agreement",
    "views' agreement": "views_agreement",
    "networks' and views'": "members_agreement",
    "mean softmax": "softmax",
    "volume": "ml",
    "volume near the median": "usual",
    "with another run's network": "other",
}


def main():
    """Predict, score, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--other", nargs=2, metavar=("CONFIG", "CHECKPOINT"))
    parser.add_argument("--splits", nargs="+", default=["val", "train"])
    parser.add_argument("--limit", type=int, help="so many volumes of each split")
    parser.add_argument("--out", help="write the rows there, a CSV file")
    parser.add_argument("--plot", help="draw the volumes' risk-coverage curves there, a PNG file")
    args = parser.parse_args()
    cfg = load_config(args.config)
    data = PreparedDataset(cfg.test_dataloader.dataset.data_root)
    exemplar = cfg.train_dataloader.exemplar_slice.case
    model, other = load(cfg, args.checkpoint), None
    if args.other:
        other = load(load_config(args.other[0]), args.other[1])
    drawn = {}
    for split in args.splits:
        cases = [c for c in data.cases(split) if c != exemplar and data.case(c)["labelled"]][: args.limit]
        rows = [row for case in cases for row in measured(model, other, data, case)]
        for cls in data.classes:
            mine = [row for row in rows if row["class"] == cls]
            middle = np.median([row["ml"] for row in mine])
            for row in mine:
                row["usual"] = -abs(math.log(max(row["ml"], 0.1) / middle))
        drawn[split] = report(split, len(cases), rows, data.classes)
        if args.out:
            save(Path(args.out).with_stem(f"{Path(args.out).stem}_{split}"), rows)
    if args.plot:
        plot(args.plot, drawn)


def load(cfg, checkpoint):
    """Return the config's model with its weights, ready to predict."""
    model = MODELS.build(cfg.model)
    load_weights(model, read_checkpoint(checkpoint), checkpoint)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def volume_of(data, case):
    """Return a volume and its labels: of a training case the squares, whose pixels are then the grid."""
    entry = data.case(case)
    if entry["split"] != "train":
        volume = data.volume(case)
        return dict(image=volume["image"], spacing=volume["spacing"], frame=data.frame), volume["label"]
    rows, (depth, *pixel), size = data.rows(case), entry["spacing"], data.size
    pixel = [data.frame.pixel or mm * n / size for mm, n in zip(pixel, entry["shape"][1:], strict=True)]
    image = np.array(data.train_images()[rows.start : rows.stop])
    return dict(image=image, spacing=(depth, *pixel), frame=data.frame), np.array(
        data.train_labels()[rows.start : rows.stop]
    )


def measured(model, other, data, case):
    """Return a case's rows of trust, with its true ``dsc`` beside."""
    volume, reference = volume_of(data, case)
    (labels,), (doubt,) = model.prediction.segment_with_doubt(model.predictors, [volume])
    rows = trust_rows(case, data.classes, labels, doubt, volume["spacing"])
    mask = list(labels.values())[-1]
    scores = score_volume(reference, dict(mask=mask), data.num_classes, dsc=get_convention("nan"))
    for k, row in enumerate(rows):
        row["members_agreement"] = mean_dice(doubt.shared[k])
        row["dsc"] = scores[k]["dsc"]
    if other is not None:
        theirs = other.segment([volume])[0][f"network_{other.num_networks}"]
        shared = shared_voxels([labels["network_1"], theirs], data.num_classes)
        for row, each in zip(rows, shared, strict=True):
            row["other"] = mean_dice(each)
    return [row for row in rows if not math.isnan(row["dsc"])]


def report(split, count, rows, classes):
    """Print correlation and area for every score, by class and for volumes (means over classes); return the volumes."""
    groups = {c: [r for r in rows if r["class"] == c] for c in classes}
    groups["volume"] = [mean_row([r for r in rows if r["scan"] == s]) for s in dict.fromkeys(r["scan"] for r in rows)]
    means = ", ".join(f"{name} {np.mean([r['dsc'] for r in group]):.3f}" for name, group in groups.items())
    print(f"{split}: {count} volumes; DSC {means}")
    table = PrettyTable(["Spearman with the true DSC", *groups, "risk-coverage area", "gained"])
    for name, key in SCORES.items():
        if not told(rows, key):
            continue
        found = [spearmanr(trusted(group, key), [r["dsc"] for r in group]).statistic for group in groups.values()]
        volumes = groups["volume"]
        risk = 1 - np.array([r["dsc"] for r in volumes])
        area, best = area_under(trusted(volumes, key), risk), area_under(-risk, risk)
        gained = (risk.mean() - area) / (risk.mean() - best)
        table.add_row([name, *(f"{f:.2f}" for f in found), f"{area:.3f}", f"{100 * gained:.0f} %"])
    table.add_row(["random order", *[""] * len(groups), f"{risk.mean():.3f}", "0 %"])
    table.add_row(["true order", *[""] * len(groups), f"{best:.3f}", "100 %"])
    table.align = "r"
    print(table, flush=True)
    return groups["volume"]


def told(rows, key):
    """Tell whether a score says anything: of one view, views' agreement does not."""
    return key in rows[0] and any(not math.isnan(row[key]) for row in rows)


def plot(path, drawn):
    """Draw what is wrong with the masks that are kept, for every share of the volumes that is."""
    figure = Figure(figsize=(4.2 * len(drawn), 3.4), layout="constrained")
    for axes, (split, volumes) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        risk = 1 - np.array([r["dsc"] for r in volumes])
        share = np.arange(1, len(risk) + 1) / len(risk)
        axes.axhline(risk.mean(), color="0.6", label="random order")
        for name, key in SCORES.items():
            if key in ("agreement", "softmax", "ml") and key in volumes[0]:
                axes.plot(share, kept_risk(trusted(volumes, key), risk), label=name)
        axes.plot(share, kept_risk(-risk, risk), "k:", label="true order")
        axes.set(title=f"{split}, {len(risk)} volumes", xlabel="share of the masks kept", ylim=(0, None))
    figure.axes[0].set_ylabel("their mean 1 - DSC")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def mean_row(rows):
    """Average a volume's classes; one that nobody found counts 0."""
    keys = [key for key in (*SCORES.values(), "dsc") if key in rows[0]]
    return {key: float(np.mean(trusted(rows, key))) for key in keys}


def trusted(rows, key):
    """Return a score's values; where it is undefined, nothing was found: the least trust there is."""
    return np.nan_to_num(np.array([row[key] for row in rows], float), nan=0.0)


def area_under(trust, risk):
    """Return the mean of :func:`kept_risk` over coverages."""
    return float(kept_risk(trust, risk).mean())


def kept_risk(trust, risk):
    """Return the mean risk of the n most trusted, for every n from 1; of equals, each has their mean."""
    order = np.argsort(-trust, kind="stable")
    risk, trust = risk[order].astype(float), trust[order]
    for value in np.unique(trust):  # ties: any order of them is as good
        risk[trust == value] = risk[trust == value].mean()
    return np.cumsum(risk) / np.arange(1, len(risk) + 1)


def save(path, rows):
    """Write every row with what was measured."""
    columns = list(rows[0])
    path.write_text("\n".join([",".join(columns), *(",".join(str(r[c]) for c in columns) for r in rows)]) + "\n")


if __name__ == "__main__":
    assert cmems.models  # registers what the config names
    main()
