"""How far masks of the same volume agree, without any of them being the reference."""

import math

import numpy as np

from cmems.evaluation.scores import measure


def shared_voxels(maps, num_classes):
    """Count the voxels that label maps have in common.

    Args:
        maps (sequence[np.ndarray]): N of ``(D, H, W)`` uint8.
        num_classes (int): K, background included.

    Returns:
        np.ndarray: ``(K - 1, N, N)`` int64; the diagonal counts each map's own.
    """
    shared = np.zeros((num_classes, len(maps), len(maps)), np.int64)
    for i, first in enumerate(maps):
        counts, _ = measure(first, list(maps[i:]), num_classes, (1.0, 1.0, 1.0), False)
        shared[:, i, i:] = shared[:, i:, i] = counts[:, 2].T
    return shared[1:]


def mean_dice(shared, pairs=None):
    """Average the Dice of pairs of masks.

    Args:
        shared (np.ndarray): ``(N, N)`` voxels that two masks have in common; the diagonal counts each one's own.
        pairs (np.ndarray | None): ``(N, N)`` bool, those that count; default all.

    Returns:
        float: The mean over pairs of which at least one mask has a voxel; NaN where there is none: to find nothing
        together is no agreement.
    """
    own = np.diagonal(shared)
    total = own[:, None] + own
    counted = np.triu(total > 0, 1) & (True if pairs is None else pairs)
    return float((2 * shared[counted] / total[counted]).mean()) if counted.any() else math.nan
