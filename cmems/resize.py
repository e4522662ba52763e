"""Resizing that preparation and prediction share, so that a network is tested on what it was trained on."""

import torch
from torch.nn import functional as F


def resize_images(images, size):
    """Resize slices bilinearly, averaging over the source pixels when shrinking (no aliasing, no overshoot).

    Args:
        images (Tensor): ``(N, H, W)`` floating point.
        size (tuple[int, int]): Height and width to produce.

    Returns:
        Tensor: ``(N, h, w)``, same dtype and device; the input itself when it already has that size.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images[:, None], size=tuple(size), mode="bilinear", antialias=True)[:, 0]


def resize_labels(labels, size):
    """Resize label maps to the label at the nearest pixel centre.

    Args:
        labels (Tensor): ``(N, H, W)``, uint8.
        size (tuple[int, int]): Height and width to produce.

    Returns:
        Tensor: ``(N, h, w)`` uint8; no label appears that was not there.
    """
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    return F.interpolate(labels[:, None].to(torch.uint8), size=tuple(size), mode="nearest-exact")[:, 0]
