"""What slices are compared by, to find one in the middle of the data; ``DESCRIPTIONS`` holds them."""

import numpy as np
import torch

from cmems.errors import InputError
from cmems.registry import DESCRIPTIONS
from cmems.resize import resize_images


@DESCRIPTIONS.register_module()
class SmallSlice:
    """The whole slice, shrunk to few pixels, less its mean, over its standard deviation.

    Args:
        side (int): Pixels of a side.
    """

    def __init__(self, side=16):
        if not isinstance(side, int) or side < 2:
            raise InputError(f"SmallSlice: side: expected an integer of 2 or more, got {side!r}")
        self.side = side

    def __call__(self, images, spacing):
        """Describe ``(D, H, W)`` float32 slices in [0, 1], spacing (slice, row, column) mm: ``(D, F)`` float32."""
        small = resize_images(torch.from_numpy(images), (self.side, self.side)).flatten(1).numpy()
        small = small - small.mean(1, keepdims=True)
        return small / (small.std(1, keepdims=True) + 1e-6)


def by_distance_to_middle(descriptions):
    """Sort the slices of all scans by the distance to the mean of all descriptions.

    Args:
        descriptions (dict[str, np.ndarray]): By scan ``(D, F)``.

    Returns:
        list[tuple[str, int, float]]: Scan, slice and distance, the nearest first.
    """
    middle = np.concatenate(list(descriptions.values())).mean(0)
    found = [
        (name, z, float(distance))
        for name, each in descriptions.items()
        for z, distance in enumerate(np.linalg.norm(each - middle, axis=1))
    ]
    return sorted(found, key=lambda f: (f[2], f[0], f[1]))
