"""Exact Dice and 95th-percentile Hausdorff distance of whole volumes, fast enough to validate with."""

import math

import numpy as np
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from cmems.errors import InputError
from cmems.evaluation.conventions import DIAGONAL

_CELL = (1, 4, 4)  # voxels whose distances are bounded together; any size gives the same HD95


def hd95(reference, prediction, spacing=(1.0, 1.0, 1.0)):
    """Measure the 95th percentile of all distances from either mask's border to the other's, as medpy's ``hd95``.

    A border voxel is one with a face neighbour outside the mask; outside the volume is outside the mask.

    Args:
        reference, prediction (np.ndarray): Bool masks of equal shape, neither empty.
        spacing (sequence[float]): Voxel size per axis; the result has its unit.

    Returns:
        float: The distance.

    Raises:
        ValueError: A mask is empty.
    """
    if not reference.any() or not prediction.any():
        raise ValueError("hd95: both masks need at least one voxel")
    points = []
    for mask in (reference, prediction):
        (window,) = find_objects(mask.view(np.uint8))
        points.append(_points(_border(mask[window]), window))
    return _distance(*points, reference.shape, spacing)


def score_volume(reference, predictions, num_classes, spacing=(1.0, 1.0, 1.0), dsc=None, hd95=None):
    """Score one volume's predictions against its reference.

    Args:
        reference (np.ndarray): ``(D, H, W)`` integers in [0, num_classes).
        predictions (dict[str, np.ndarray]): By model, of the same shape.
        num_classes (int): K, background included.
        spacing (sequence[float]): (slice, row, column); 1 for voxel units.
        dsc, hd95 (Convention | None): Measure these, under these conventions.

    Returns:
        list[dict]: A row per model and foreground class: ``model``, ``cls`` (label id), ``status`` (``ok``, ``missed``,
        ``false``, ``both_empty``), and ``dsc``, ``hd95`` as asked for (nan: skipped).

    Raises:
        InputError: Shapes differ.
    """
    rows, borders = [], {}
    diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(reference.shape, spacing, strict=True)))
    references = find_objects(reference, max_label=num_classes - 1)  # bounding boxes; None where a class is absent
    for model, prediction in predictions.items():
        if prediction.shape != reference.shape:
            raise InputError(f"{model}: expected a prediction of shape {reference.shape}, got {prediction.shape}")
        found = find_objects(prediction, max_label=num_classes - 1)
        for k, (theirs, ours) in enumerate(zip(references, found, strict=True), 1):
            status = {(True, True): "both_empty", (False, True): "missed", (True, False): "false"}.get(
                (theirs is None, ours is None), "ok"
            )
            row = dict(model=model, cls=k, status=status)
            if dsc is not None:
                row["dsc"] = _dice(reference, prediction, k, theirs, ours) if status == "ok" else dsc.dsc[status]
            if hd95 is not None:
                if status == "ok":
                    if k not in borders:
                        borders[k] = _points(_border(reference[theirs] == k), theirs)
                    mine = _points(_border(prediction[ours] == k), ours)
                    row["hd95"] = _distance(borders[k], mine, reference.shape, spacing)
                else:
                    row["hd95"] = hd95.hd95[status]
                if row["hd95"] == DIAGONAL:
                    row["hd95"] = diagonal
            rows.append({key: float(v) if key in ("dsc", "hd95") else v for key, v in row.items()})
    return rows


def _dice(reference, prediction, k, theirs, ours):
    """Return the Dice of label ``k``, whose voxels lie in these boxes of the reference and of the prediction."""
    shared = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(theirs, ours, strict=True))
    both = np.count_nonzero((reference[shared] == k) & (prediction[shared] == k))
    return 2 * both / (np.count_nonzero(reference[theirs] == k) + np.count_nonzero(prediction[ours] == k))


def _border(mask):
    """Return the voxels of a mask with a face neighbour outside it; beyond the array is outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        first = [slice(None)] * mask.ndim
        last = list(first)
        head, tail = list(first), list(first)
        head[axis], tail[axis] = slice(None, -1), slice(1, None)
        first[axis], last[axis] = 0, -1
        inner[tuple(tail)] &= mask[tuple(head)]
        inner[tuple(head)] &= mask[tuple(tail)]
        inner[tuple(first)] = False
        inner[tuple(last)] = False
    return mask & ~inner


def _points(border, window):
    """Return the ``(n, 3)`` int64 coordinates of a border in the whole volume."""
    return np.argwhere(border) + [s.start for s in window]


def _distance(a, b, shape, spacing):
    """Return HD95 between two sets of border coordinates.

    The percentile lies between the distances of one rank and the next; of the points below, any bound will do.
    """
    # A voxel of both borders is at distance 0: only the others are searched for.
    codes_a, codes_b = (np.ravel_multi_index(p.T, shape) for p in (a, b))
    alone_a = a[~np.isin(codes_a, codes_b, assume_unique=True)]
    alone_b = b[~np.isin(codes_b, codes_a, assume_unique=True)]
    spacing = np.asarray(spacing, dtype=float)
    total, begin, searches = len(a) + len(b), 0, []
    lower, upper = np.zeros(total), np.zeros(total)
    for points, others in ((alone_a, b), (alone_b, a)):
        if len(points):
            tree = cKDTree(others * spacing, balanced_tree=False, compact_nodes=False)
            here = slice(begin, begin + len(points))
            lower[here], upper[here] = _bounds(points, tree, shape, spacing)
            searches.append((here, points, tree))
            begin += len(points)
    rank = int(0.95 * (total - 1))
    least = np.partition(lower, rank)[rank] * (1 - 1e-9)  # the distance of that rank is at least this
    for here, points, tree in searches:
        (near_or_above,) = np.nonzero(upper[here] >= least)
        lower[here.start + near_or_above] = tree.query(points[near_or_above] * spacing)[0]
    return float(np.percentile(lower, 95))


def _bounds(points, tree, shape, spacing):
    """Bound the distance of every point to the tree's nearest: of one in each cell, give or take the way to it."""
    _, first, cell = np.unique(np.ravel_multi_index((points // _CELL).T, shape), return_index=True, return_inverse=True)
    distance = tree.query(points[first] * spacing)[0][cell]
    way = np.sqrt((((points - points[first][cell]) * spacing) ** 2).sum(1))
    return np.maximum(distance - way, 0), distance + way
