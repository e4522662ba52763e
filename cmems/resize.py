"""Resizing that preparation and prediction share, so that a network is tested on what it was trained on."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

_SMALLEST, _LARGEST = 8, 1 << 13  # pixels of the longer side of a slice that was resampled


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
    if size[1] == 1 and size[0] != images.shape[-2]:  # there torch 2.13 gives every row the same
        columns = resize_images(images, (images.shape[-2], 1)).repeat(1, 1, 2)
        return resize_images(columns, (size[0], 2))[:, :, :1]
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


class Frame(NamedTuple):
    """How slices of any size become the squares that networks take, and how maps of those squares come back.

    Without ``pixel`` a slice is squeezed to the square. With it, it is resampled to pixels of that size and the
    middle is cut out; what lies beyond a small slice is black, and background.

    Attributes:
        size: Side S of the square, pixels.
        pixel: Side of its pixels, mm; None squeezes.
    """

    size: int
    pixel: float | None = None

    def grid(self, shape, spacing):
        """Return the ``(h, w)`` that a slice of ``shape`` and ``(row, column)`` mm spacing is resampled to."""
        if self.pixel is None:
            return self.size, self.size
        return tuple(max(1, round(n * mm / self.pixel)) for n, mm in zip(shape, spacing, strict=True))

    def problem(self, shape, spacing):
        """Return what is wrong with slices of ``shape`` once resampled, too large or too small, or None."""
        grid = self.grid(shape, spacing)
        if _SMALLEST <= max(grid) <= _LARGEST:
            return None
        return (
            f"slices of {shape[0]} x {shape[1]} voxels of {spacing[0]:.4g} x {spacing[1]:.4g} mm become {grid[0]} x "
            f"{grid[1]} pixels of {self.pixel:g} mm; expected {_SMALLEST} to {_LARGEST}"
        )

    def images(self, images, spacing):
        """Bring ``(N, H, W)`` floating-point slices into the square: ``(N, S, S)``."""
        return _centre(resize_images(images, self.grid(images.shape[-2:], spacing)), (self.size, self.size), 0)

    def labels(self, labels, spacing):
        """Bring ``(N, H, W)`` uint8 labels into the square: ``(N, S, S)``."""
        return _centre(resize_labels(labels, self.grid(labels.shape[-2:], spacing)), (self.size, self.size), 0)

    def labels_back(self, labels, shape, spacing):
        """Bring ``(N, S, S)`` uint8 labels back to slices of ``shape``, each the label of the nearest pixel."""
        return resize_labels(_centre(labels, self.grid(shape, spacing), 0), shape)

    def probabilities_back(self, probabilities, shape, spacing):
        """Bring ``(N, K, S, S)`` probabilities back to slices of ``shape``, bilinearly: ``(N, K, H, W)``.

        Beyond the square, background has probability 1.
        """
        n, k = probabilities.shape[:2]
        grid = self.grid(shape, spacing)
        background = _centre(probabilities[:, :1], grid, 1)
        whole = torch.cat([background, _centre(probabilities[:, 1:], grid, 0)], 1)
        if tuple(shape) == tuple(grid):
            return whole
        return resize_images(whole.flatten(0, 1), shape).unflatten(0, (n, k))


def _centre(maps, size, fill):
    """Cut out, or pad with ``fill``, the middle of ``(..., H, W)`` maps; its own inverse where nothing was cut."""
    for axis, (have, want) in enumerate(zip(maps.shape[-2:], size, strict=True), -2):
        if have > want:
            maps = maps.narrow(axis, (have - want) // 2, want)
        elif have < want:
            before, after = (want - have) // 2, want - have - (want - have) // 2
            maps = F.pad(maps, (0, 0) * (-1 - axis) + (before, after), value=fill)
    return maps
