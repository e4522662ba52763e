"""Are the slices that `pick` shows better exemplars than random ones? Without training, by a stand-in.

The stand-in is how well an exemplar's labels fit the other patients' slices once each heart is moved, turned and scaled
to the same place, way and size: what turning and scaling alone give to a method that learns from one slice. Labels are
read here, for measuring alone. Slices that lack a class cannot be exemplars and are counted.
"""

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

from cmems.apis.pick import pick
from cmems.datasets.prepared import PreparedDataset
from cmems.registry import READERS

GRID, RADIUS = 48, 9  # pixels of the common place, and of the heart's left ventricle there


def main():
    """Pick from the training scans, draw random slices, and print how both fit the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", help="ACDC's folder")
    parser.add_argument("prepared", help="the same data, prepared")
    parser.add_argument("--number", type=int, default=10)
    parser.add_argument("--patient", default=r"patient\d+")
    parser.add_argument("--also", nargs="+", default=(), metavar="CASE:SLICE", help="exemplars to show beside")
    args = parser.parse_args()
    data = PreparedDataset(args.prepared)
    fits = fit(data, args.patient)
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder, "scans")
        scans.mkdir()
        for case in READERS.get("acdc")(args.raw).cases():
            if case.name in data.cases("train"):
                (scans / f"{case.name}.nii.gz").symlink_to(case.images[0].resolve())
        picks = [(p.scan, p.slice) for p in pick(str(scans), folder, args.number, patient=args.patient)]
    report(picks, fits, [(c, int(z)) for c, z in (each.split(":") for each in args.also)], args.number)


def fit(data, patient):
    """Return, by eligible slice, its labels' mean Dice with those of other patients' eligible slices."""
    labels = data.train_labels()
    slices = data.eligible_exemplars()
    maps = np.stack([in_place(np.array(labels[data.row(c, z)])) for c, z in slices]).reshape(len(slices), -1)
    people = np.array([re.match(patient, case)[0] for case, _ in slices])
    dice = np.zeros((len(slices), len(slices)))
    for k in range(1, data.num_classes):
        mask = (maps == k).astype(np.float32)
        size = mask.sum(1)
        dice += 2 * (mask @ mask.T) / (size[:, None] + size) / len(data.classes)
    others = people[:, None] != people
    return dict(zip(slices, (dice * others).sum(1) / others.sum(1), strict=True))


def in_place(label):
    """Move a slice's heart to the middle, turn its right ventricle to one side and scale its left one to RADIUS."""
    y, x = np.nonzero(label >= 2)
    right_y, right_x = (axis.mean() for axis in np.nonzero(label == 1))
    turn, scale = np.arctan2(right_y - y.mean(), right_x - x.mean()), np.sqrt(len(y) / np.pi) / RADIUS
    v, u = (np.mgrid[:GRID, :GRID] - (GRID - 1) / 2) * scale
    rows = np.rint(y.mean() + u * np.sin(turn) + v * np.cos(turn)).astype(int)
    columns = np.rint(x.mean() + u * np.cos(turn) - v * np.sin(turn)).astype(int)
    height, width = label.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(inside, label[rows.clip(0, height - 1), columns.clip(0, width - 1)], 0)


def report(picks, fits, also, number):
    """Print what fits how well."""
    values = np.array(list(fits.values()))
    table = PrettyTable(["slice", "fit", "better than, of eligible slices"])
    for name in (*picks, *also):
        known = name in fits
        table.add_row([f"{name[0]} {name[1]}", *((f"{fits[name]:.3f}", f"{100 * (values < fits[name]).mean():.0f} %")
                                                 if known else ("lacks a class", ""))])  # fmt: skip
    print(table)
    mine = np.array([fits[name] for name in picks if name in fits])
    draws = np.random.default_rng(0).choice(values, (10000, number)).mean(1)
    print(f"{len(mine)} of {len(picks)} picks hold every class; mean fit {mine.mean():.3f}, worst {mine.min():.3f}")
    print(
        f"{number} random of {len(values)} eligible: {draws.mean():.3f} ± {draws.std():.3f}; one {values.mean():.3f} "
        f"± {values.std():.3f}; {100 * (draws >= mine.mean()).mean():.1f} % of such draws are as good"
    )


if __name__ == "__main__":
    main()
