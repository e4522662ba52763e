"""What speaks against labels that nobody checked: members of an ensemble that disagree, and spread probabilities."""

import math
from typing import NamedTuple

import numpy as np
import torch

_CHUNK = 8  # slices whose members are compared at once


class Doubt(NamedTuple):
    """What is known of a volume's labels beside them.

    A member is a network in a view; its voxels are those of the networks' squares.

    Attributes:
        shared: ``(K - 1, N, N)`` int64: voxels that both members give to a class; the diagonal counts each one's own.
            Members of one view, in the networks' order, follow those of the view before.
        num_networks: M.
        softmax: ``(K - 1,)`` float64: mean probability of a class where it is the label; NaN where it is nowhere.
        entropies: ``(D, H, W)`` float32 in [0, 1] on the volume's grid, 1 where all classes are alike likely; or None.
        probabilities: ``(K, D, H, W)`` uint16 on the volume's grid, the members' mean before a clean-up, 65,535 for 1;
            or None.
    """

    shared: np.ndarray
    num_networks: int
    softmax: np.ndarray
    entropies: np.ndarray | None
    probabilities: np.ndarray | None = None


def overlaps(views):
    """Count what members share, slice by slice.

    Args:
        views (list[Tensor]): By view ``(M, B, K, S, S)`` probabilities.

    Returns:
        Tensor: ``(B, K - 1, N, N)`` int64, see :class:`Doubt`.
    """
    labels = torch.cat([p.max(2).indices.to(torch.uint8) for p in views]).transpose(0, 1).flatten(2)  # (B, N, S * S)
    counts = []
    for part in labels.split(_CHUNK):
        masks = [(part == k).float() for k in range(1, views[0].shape[2])]
        counts.append(torch.stack([torch.bmm(m, m.transpose(1, 2)) for m in masks], 1).long())
    return torch.cat(counts)


def mean_softmax(probabilities):
    """Average, by foreground class, the probability of ``(D, K, S, S)`` maps where the class is the label."""
    best, labels = probabilities.max(1)
    k = probabilities.shape[1]
    total = torch.bincount(labels.flatten(), best.flatten().double(), minlength=k)
    count = torch.bincount(labels.flatten(), minlength=k)
    return (total / count)[1:].cpu().numpy()


def entropy(probabilities):
    """Return the entropy of ``(N, K, H, W)`` probabilities over the largest there is: ``(N, H, W)`` in [0, 1]."""
    p = probabilities.clamp(min=1e-12)
    return (-(p * p.log()).sum(1) / math.log(p.shape[1])).clamp(0, 1)
