"""Confidence pseudo-labels (Eq. 2-3)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmems.errors import InputError
from cmems.registry import PSEUDO_LABELERS


class PseudoLabel(NamedTuple):
    """A target made by a network.

    Attributes:
        labels: ``(B, H, W)`` int64 in [0, K).
        weight: ``(B, H, W)`` float32 in [0, 1], or None when every pixel counts.
        confident: ``(B, H, W)`` bool, pixels at or above the threshold.
        probabilities: ``(B, K, H, W)`` float32.
    """

    labels: Tensor
    weight: Tensor | None
    confident: Tensor
    probabilities: Tensor


@PSEUDO_LABELERS.register_module()
class ConfidenceThreshold(nn.Module):
    """Y = argmax P where max P ≥ τ (Eq. 3).

    Args:
        threshold (float): τ in [0, 1] (paper: 0.8); 0 keeps every pixel.
        below (str): What a pixel under τ becomes: ``"background"``, class 0, as Eq. 3 is printed, or ``"ignore"``, no
            part of the loss.
    """

    def __init__(self, threshold=0.8, below="background"):
        super().__init__()
        if below not in ("background", "ignore"):
            raise InputError(f"ConfidenceThreshold: below: expected 'background' or 'ignore', got {below!r}")
        if not 0 <= threshold <= 1:
            raise InputError(f"ConfidenceThreshold: threshold: expected a number in [0, 1], got {threshold!r}")
        self.threshold, self.below = threshold, below

    @torch.no_grad()
    def forward(self, logits):
        """Return the :class:`PseudoLabel` of ``(B, K, H, W)`` logits."""
        probabilities = logits.float().softmax(1)
        confidence, labels = probabilities.max(1)
        confident = confidence >= self.threshold
        if self.below == "background":
            return PseudoLabel(labels * confident, None, confident, probabilities)
        return PseudoLabel(labels, confident.float(), confident, probabilities)
