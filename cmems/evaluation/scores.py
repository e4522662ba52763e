"""Exact Dice and 95th-percentile Hausdorff distance of whole volumes, fast enough to validate with."""

import math

import numpy as np
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from cmems import ops
from cmems.errors import InputError
from cmems.evaluation.conventions import DIAGONAL
from cmems.labels import UNKNOWN


def hd95(reference, prediction, spacing=(1.0, 1.0, 1.0)):
    """Measure the 95th percentile of all distances from either mask's border to the other's, as medpy's ``hd95``.

    A border voxel is one with a face neighbour outside the mask; outside the volume is outside the mask.

    Args:
        reference, prediction (np.ndarray): Bool masks of equal shape, neither empty.
        spacing (sequence[float]): Voxel size per axis; the result has its unit.

    Returns:
        float: The distance.

    Raises:
        ValueError: A mask is empty, or the shapes differ.
    """
    masks = [np.asarray(mask, bool).view(np.uint8) for mask in (reference, prediction)]
    _, distances = measure(masks[0], masks[1:], 2, spacing, True)
    if np.isnan(distances[0, 1]):
        raise ValueError("hd95: both masks need at least one voxel")
    return float(distances[0, 1])


def assd(reference, prediction, spacing=(1.0, 1.0, 1.0)):
    """Measure the average symmetric surface distance, as medpy 0.5's ``assd``: the mean over both borders together.

    Args, returns and errors are those of :func:`hd95`.
    """
    if (one := np.shape(reference)) != (other := np.shape(prediction)):
        raise ValueError(f"assd: expected masks of equal shape, got {one} and {other}")
    borders = []
    for mask in (reference, prediction):
        mask = np.asarray(mask, bool).view(np.uint8)
        (box,) = find_objects(mask, max_label=1)
        if box is None:
            raise ValueError("assd: both masks need at least one voxel")
        borders.append(_points(_border(mask[box] == 1), box) * np.asarray(spacing))
    return float(np.concatenate([_tree(b).query(a)[0] for a, b in (borders, borders[::-1])]).mean())


def score_volume(
    reference, predictions, num_classes, spacing=(1.0, 1.0, 1.0), dsc=None, hd95=None, jaccard=None, assd=None
):
    """Score one volume's predictions against its reference.

    Args:
        reference (np.ndarray): ``(D, H, W)`` integers in [0, num_classes); 255 beyond them where nobody annotated: no
            label counts there.
        predictions (dict[str, np.ndarray]): By model, of the same shape.
        num_classes (int): K, background included.
        spacing (sequence[float]): (slice, row, column); 1 for voxel units.
        dsc, hd95, jaccard, assd (Convention | None): Measure these, under these conventions; where a mask is empty,
            Jaccard scores as DSC does, ASSD as HD95.

    Returns:
        list[dict]: A row per model and foreground class: ``model``, ``cls`` (label id), ``status`` (``ok``, ``missed``,
        ``false``, ``both_empty``), and ``dsc``, ``hd95``, ``jaccard``, ``assd`` as asked for (nan: skipped).

    Raises:
        InputError: Shapes differ.
    """
    rows = []
    diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(reference.shape, spacing, strict=True)))
    for model, prediction in predictions.items():
        if prediction.shape != reference.shape:
            raise InputError(f"{model}: expected a prediction of shape {reference.shape}, got {prediction.shape}")
    if num_classes <= UNKNOWN and (unknown := reference == UNKNOWN).any():
        reference = np.where(unknown, 0, reference)
        predictions = {model: np.where(unknown, 0, found) for model, found in predictions.items()}
    counts, distances = measure(reference, list(predictions.values()), num_classes, spacing, hd95 is not None)
    for m, model in enumerate(predictions):
        for k in range(1, num_classes):
            theirs, ours, both = counts[m, :, k]
            status = ("ok" if ours else "missed") if theirs else ("false" if ours else "both_empty")
            row = dict(model=model, cls=k, status=status)
            for key, convention in dict(dsc=dsc, hd95=hd95, jaccard=jaccard, assd=assd).items():
                if convention is None:
                    continue
                if status != "ok":
                    value = (convention.dsc if key in ("dsc", "jaccard") else convention.hd95)[status]
                    value = diagonal if value == DIAGONAL else value
                elif key == "dsc":
                    value = 2 * both / (theirs + ours)
                elif key == "jaccard":
                    value = both / (theirs + ours - both)
                elif key == "hd95":
                    value = distances[m, k]
                else:
                    value = _surface(reference == k, predictions[model] == k, spacing)
                row[key] = float(value)
            rows.append(row)
    return rows


_surface = assd  # inside score_volume that name is a convention


def measure(reference, predictions, num_classes, spacing, hd95):
    """Return what ``ops.score_labels`` does, which is used where it is there."""
    if reference.ndim != 3 or any(each.shape != reference.shape for each in predictions):
        shapes = ", ".join(str(each.shape) for each in (reference, *predictions))
        raise ValueError(f"expected volumes of one shape (D, H, W), got {shapes}")
    if ops.why_not() is None and num_classes <= 256:
        return ops.score_labels(reference, predictions, num_classes, spacing, hd95)
    counts = np.zeros((len(predictions), 3, num_classes), np.int64)
    distances = np.full((len(predictions), num_classes), np.nan)
    whole = find_objects(reference, max_label=num_classes - 1)  # bounding boxes; None where a class is absent
    for m, prediction in enumerate(predictions):
        boxes = zip(whole, find_objects(prediction, max_label=num_classes - 1), strict=True)
        for k, (theirs, ours) in enumerate(boxes, 1):
            counts[m, 0, k] = 0 if theirs is None else np.count_nonzero(reference[theirs] == k)
            counts[m, 1, k] = 0 if ours is None else np.count_nonzero(prediction[ours] == k)
            if theirs is None or ours is None:
                continue
            counts[m, 2, k] = np.count_nonzero((reference[theirs] == k) & (prediction[theirs] == k))
            if hd95:
                a = _points(_border(reference[theirs] == k), theirs) * np.asarray(spacing)
                b = _points(_border(prediction[ours] == k), ours) * np.asarray(spacing)
                both = [_tree(others).query(points)[0] for points, others in ((a, b), (b, a))]
                distances[m, k] = np.percentile(np.concatenate(both), 95)
    return counts, distances


def _tree(points):
    return cKDTree(points, balanced_tree=False, compact_nodes=False)  # built for one query each: the fastest to build


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
