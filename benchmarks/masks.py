"""How good are the masks of training scans, and how large? Labels of other slices are read here, for measuring alone.

Prints, for each class, what the masks hold of the true pixels, and for slices by the size of their organs, given as a
length beside the exemplar's (the root of the areas' ratio), how often a size occurs and how large the masks draw it: a
network that was taught on large organs alone draws small ones too large.
"""

import argparse
from itertools import pairwise

import numpy as np
from prettytable import PrettyTable

from cmems.datasets.masks import read_static_labels
from cmems.datasets.prepared import PreparedDataset

SIZES = (0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1, 1.2, np.inf)


def main():
    """Read, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", help="a prepared data set, every training slice labelled")
    parser.add_argument("exemplar", metavar="CASE:SLICE", help="its organs are of size 1")
    parser.add_argument("masks", nargs="*", help="folders of <case>.nii.gz, as rounds leave them; none: sizes alone")
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
        known = masks != 255
        for k, name in enumerate(data.classes, 1):
            drawn, there = masks == k, (true[rows] == k) & known
            dice = 2 * (drawn & there).sum() / (drawn.sum() + there.sum())
            print(f"{folder}: {name} DSC {dice:.3f}, {drawn.sum() / there.sum():.2f} of the true pixels")
        cells = []
        for held in bins:
            there = held[rows]
            drawn, wanted = _area(masks[there], organ).sum(), _area(true[rows[there]], organ).sum()
            cells.append(f"{drawn / wanted:.2f}" if wanted else "–")
        table.add_row([folder, *cells])
    print(table)


def _area(labels, organ):
    """Return how many pixels of ``(N, S, S)`` labels are of the organ, ``(N,)``."""
    return np.isin(labels, organ).sum((1, 2))


if __name__ == "__main__":
    main()
