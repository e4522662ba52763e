"""Weak perturbation W: the geometry of a slice, its labels moving with it."""

import math

from cmems import geometry
from cmems.models.perturbations.base import Perturbation, check_draws
from cmems.registry import PERTURBATIONS


@PERTURBATIONS.register_module()
class RandomRotateFlip(Perturbation):
    """Random rotation and flip, the paper's W, in one resampling.

    Args:
        quarter_turns (bool): Draw 0, 1, 2 or 3 quarter turns.
        flip (float): Probability of mirroring left to right; with quarter turns this reaches every mirror image.
        degrees (float): Further rotation, uniform in ± this many degrees.
    """

    role = "weak"

    def __init__(self, quarter_turns=True, flip=0.5, degrees=20.0):
        self.quarter_turns, self.flip, self.degrees = quarter_turns, flip, degrees
        check_draws(self, probabilities=["flip"], sizes=["degrees"])

    def draw(self, stream, n):
        """Draw ``matrices``, ``(n, 2, 3)`` sampling matrices (:mod:`cmems.geometry`)."""
        angle = geometry.degrees(stream, n, self.degrees)
        if self.quarter_turns:
            angle = angle + stream.integers(n, 4) * (math.pi / 2)
        return dict(matrices=geometry.affine_matrices(angle, flip=stream.bernoulli(n, self.flip)))

    def apply(self, images, matrices, labels=None):
        """Move ``(B, C, H, W)`` images and their ``(B, H, W)`` uint8 labels alike.

        Returns:
            Tensor | tuple[Tensor, Tensor]: Images, or images and labels where labels are given.
        """
        sampling = geometry.grid(matrices, images.shape[-2:])
        moved = geometry.warp_images(images, sampling)
        return moved if labels is None else (moved, geometry.warp_labels(labels, sampling))
