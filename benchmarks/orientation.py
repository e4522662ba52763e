"""How well StackOrientation tells how hearts lie: python benchmarks/orientation.py DATA [EVERY].

Of every EVERY-th training scan (default 4) the slice at a third of the stack is an exemplar in turn, if it shows every
class. How it lies is the direction from the centroid of class 3 to that of class 1; the truth is by how much that
differs from the mean direction of all scans. Labels are read to measure alone.
"""

import math
import sys

import numpy as np
import torch

from cmems.datasets.orientation import StackOrientation
from cmems.datasets.prepared import PreparedDataset


def main(root, every=4):
    """Print the error in degrees, and without turning, the exemplar as it lies."""
    data = PreparedDataset(root)
    stacks, labels = [data.rows(case) for case in data.cases("train")], data.train_labels()
    third = [stack[len(stack) // 3] for stack in stacks]
    rows = [row for row in third if all((labels[row] == k).sum() > 15 for k in (1, 2, 3))]
    lies = {row: direction(labels[row]) for row in rows}
    mean = math.atan2(sum(map(math.sin, lies.values())), sum(map(math.cos, lies.values())))
    chosen = rows[::every]
    turns = StackOrientation()(
        data.train_images(), stacks, chosen, torch.from_numpy(np.stack([labels[r] for r in chosen]))
    )
    left = [apart(mean, lies[row]) for row in chosen]
    error = [apart(mean, lies[row] + turn) for row, turn in zip(chosen, turns.tolist(), strict=True)]
    print(f"{len(chosen)} exemplars, {int((turns != 0).sum())} of them turned; degrees from the mean direction:")
    for name, values in (("as they lie", left), ("turned", error)):
        print(f"{name:12}" + "".join(f"  {q:4.0%} to {np.quantile(values, q):3.0f}" for q in (0.5, 0.9, 1)))


def direction(label):
    """Return the angle from the left ventricle's centroid to the right one's, clockwise."""
    (y1, x1), (y3, x3) = (np.argwhere(label == k).mean(0) for k in (1, 3))
    return math.atan2(y1 - y3, x1 - x3)


def apart(one, other):
    """Return how many degrees two angles differ by."""
    return abs(math.degrees((one - other + math.pi) % (2 * math.pi) - math.pi))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
