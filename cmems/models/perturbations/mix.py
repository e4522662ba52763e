"""Mixing a batch with itself."""

import torch

from cmems import processes
from cmems.models.perturbations.base import Perturbation, check_draws
from cmems.registry import PERTURBATIONS


@PERTURBATIONS.register_module()
class CutMix(Perturbation):
    """Replace a box of each sample by the same box of the one before (Yun et al. 2019; ranges as UniMatch's).

    Args:
        area (tuple[float, float]): Range of the box's area, as a share of the image's.
        aspect (tuple[float, float]): Range of its height over its width, log-uniform.
        probability (float): Share of the samples that are mixed.
    """

    role = "mix"

    def __init__(self, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), probability=0.5):
        self.area, self.aspect, self.probability = area, aspect, probability
        check_draws(self, shares=["area"], factors=["aspect"], probabilities=["probability"])

    def draw(self, stream, n, size):
        """Draw ``mask``, ``(n, H, W)`` bool, the boxes; a box too long for the image is cut to it."""
        area = stream.uniform((n, 1), *self.area)
        aspect = stream.log_uniform((n, 1), *self.aspect)
        sides = [(area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)]
        spans = []
        for side, length in zip(sides, size, strict=True):
            begin = stream.uniform((n, 1)) * (1 - side)
            centre = (torch.arange(length, device=begin.device) + 0.5) / length
            spans.append((centre >= begin) & (centre < begin + side))
        mixed = stream.bernoulli((n, 1, 1), self.probability)
        return dict(mask=spans[0].unsqueeze(2) & spans[1].unsqueeze(1) & mixed)

    def apply(self, values, mask):
        """Mix ``(B, H, W)`` or ``(B, C, H, W)`` values of any dtype with those of the sample before."""
        return torch.where(mask if values.dim() == 3 else mask.unsqueeze(1), processes.neighbours(values), values)
