"""How good are the masks of training scans, and how large? Labels of other slices are read here, for measuring alone.

Prints the volumes' mean DSC; for each class what the masks hold of the true pixels; by place in the stack, how much the
mean DSC would gain if the slices there were right, and how large the masks draw each class there; and for slices by the
size of their organs, given as a length beside the exemplar's (the root of the areas' ratio), how often a size occurs
and how large the masks draw it: a network that was taught on large organs alone draws small ones too large.
"""

import argparse
import json
from itertools import pairwise

import numpy as np
from prettytable import PrettyTable

from cmems.datasets.masks import read_static_labels
from cmems.datasets.prepared import PreparedDataset
from cmems.registry import POST_PROCESSORS

SIZES = (0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1, 1.2, np.inf)
PLACES = ("before the organs", "their first slice", "the second", "between", "their last two", "behind them")


def main():
    """Read, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", help="a prepared data set, every training slice labelled")
    parser.add_argument("exemplar", metavar="CASE:SLICE", help="its organs are of size 1")
    parser.add_argument("masks", nargs="*", help="folders of <case>.nii.gz, as rounds leave them; none: sizes alone")
    parser.add_argument(
        "--clean", type=json.loads, metavar="JSON", help="first clean the masks up by this post-processor"
    )
    parser.add_argument("--organ", type=int, nargs="+", help="labels that together are measured by size; default: all")
    args = parser.parse_args()
    data = PreparedDataset(args.prepared)
    case, index = args.exemplar.split(":")
    organ = args.organ or list(range(1, data.num_classes))
    true = np.array(data.train_labels())
    size = np.sqrt(_area(true, organ) / _area(data.train_label(data.row(case, int(index)))[None], organ))
    bins = [(size > low) & (size <= high) for low, high in pairwise(SIZES)]
    table = PrettyTable(["masks", *(f"to {high:g}" for high in SIZES[1:])])
    table.title = f"size beside {args.exemplar}'s of {', '.join(data.classes[k - 1] for k in organ)}"
    table.add_row(["slices, %", *(f"{100 * held.sum() / (size > 0).sum():.0f}" for held in bins)])
    for folder in args.masks:
        rows, masks = (each.numpy() for each in read_static_labels(data, folder))
        if args.clean:
            _clean(args.clean, data, rows, masks)
        known = masks != 255
        for k, name in enumerate(data.classes, 1):
            drawn, there = masks == k, (true[rows] == k) & known
            dice = 2 * (drawn & there).sum() / (drawn.sum() + there.sum())
            print(f"{folder}: {name} DSC {dice:.3f}, {drawn.sum() / there.sum():.2f} of the true pixels")
        print(_by_place(data, true, dict(zip(rows.tolist(), masks, strict=True)), folder))
        cells = []
        for held in bins:
            there = held[rows]
            drawn, wanted = _area(masks[there], organ).sum(), _area(true[rows[there]], organ).sum()
            cells.append(f"{drawn / wanted:.2f}" if wanted else "–")
        table.add_row([folder, *cells])
    print(table)


def _clean(part, data, rows, masks):
    """Clean ``(n, S, S)`` masks up, volume by volume, in place."""
    part, at = POST_PROCESSORS.build(part), {row: k for k, row in enumerate(rows.tolist())}
    for case in data.cases("train"):
        if (there := data.rows(case)).start in at:
            held = slice(at[there.start], at[there.start] + len(there))
            entry, size = data.case(case), data.frame.size
            mm = zip(entry["spacing"][1:], entry["shape"][1:], strict=True)
            masks[held] = part(masks[held], (entry["spacing"][0], *(data.frame.pixel or a * n / size for a, n in mm)))


def _by_place(data, true, masks, folder):
    """Return a table: what wrong slices cost, by where the true organs begin and end in the stack; 255 is left out."""
    classes = np.arange(1, data.num_classes)
    base, gains, drawn, wanted = [], [], np.zeros((len(PLACES), len(classes))), np.zeros((len(PLACES), len(classes)))
    for rows in map(data.rows, data.cases("train")):
        if rows.start not in masks:
            continue
        known = np.stack([masks[row] for row in rows])
        real = np.where(known == 255, 255, true[rows.start : rows.stop])
        a, b, both = (
            np.stack([(each == k).sum((1, 2)) for k in classes], 1)
            for each in (known, real, np.where(known == real, real, 0))
        )
        full = np.flatnonzero(b.any(1))
        if not len(full):
            continue
        first, last, n = full[0], full[-1], np.arange(len(rows))
        place = np.select([n < first, n == first, n > last, n >= last - 1, n == first + 1], [0, 1, 5, 4, 2], 3)
        base.append(_dice(a.sum(0), b.sum(0), both.sum(0)))
        gains.append(np.zeros((len(PLACES), len(classes))))
        for k in range(len(PLACES)):
            mended = (place == k)[:, None]
            better = _dice(np.where(mended, b, a).sum(0), b.sum(0), np.where(mended, b, both).sum(0))
            gains[-1][k] = better - base[-1]
            drawn[k] += np.where(mended, a, 0).sum(0)
            wanted[k] += np.where(mended, b, 0).sum(0)
    table = PrettyTable(["slices", "DSC to gain", *(f"{name}: drawn / true" for name in data.classes)])
    by_class = " ".join(f"{name} {dice:.3f}" for name, dice in zip(data.classes, np.mean(base, 0), strict=True))
    table.title = f"{folder}: mean DSC of {len(base)} volumes {np.mean(base):.3f} ({by_class})"
    for k, name in enumerate(PLACES):
        shares = (f"{d / w:.2f}" if w else f"{d:.0f} px" for d, w in zip(drawn[k], wanted[k], strict=True))
        table.add_row([name, f"{np.mean(gains, 0)[k].mean():.3f}", *shares])
    return table


def _dice(drawn, wanted, both):
    return np.where(drawn + wanted > 0, 2 * both / np.maximum(drawn + wanted, 1), 1.0)


def _area(labels, organ):
    """Return how many pixels of ``(N, S, S)`` labels are of the organ, ``(N,)``."""
    return np.isin(labels, organ).sum((1, 2))


if __name__ == "__main__":
    main()
