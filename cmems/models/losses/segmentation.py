"""The segmentation loss L_seg (Eq. 6)."""

import torch
from torch import nn
from torch.nn import functional as F

from cmems import processes
from cmems.errors import InputError
from cmems.models.perturbations.base import check_draws
from cmems.registry import LOSSES


@LOSSES.register_module()
class CrossEntropyDice(nn.Module):
    """L_seg = ½ CE + ½ Dice (Eq. 6), in float32 whatever the logits' dtype.

    Dice is TransUNet's: soft, over the whole batch, squared denominator, mean over the classes, background included.
    The batch is that of all processes.
    Cross-entropy is a product with the one-hot target, whose gradient is deterministic on every device.

    Args:
        ce (float): Weight of the cross-entropy.
        dice (float): Weight of the Dice loss.
        smooth (float): Added to the numerator and the denominator of Dice.
    """

    def __init__(self, ce=0.5, dice=0.5, smooth=1e-5):
        super().__init__()
        self.ce, self.dice, self.smooth = ce, dice, smooth
        check_draws(self, sizes=["ce", "dice"], positives=["smooth"])
        if not (ce or dice):
            raise InputError("CrossEntropyDice: ce, dice: expected one of more than 0, got 0 and 0")

    def forward(self, logits, labels, weight=None):
        """Compare logits with labels.

        Args:
            logits (Tensor): ``(B, K, H, W)``.
            labels (Tensor): ``(B, H, W)`` integers in [0, K).
            weight (Tensor | None): ``(B, H, W)`` float32; a pixel of weight 0 does not move the loss. Dice, whose sums
                are of products and squares, weights both maps, so that there a weight counts squared.

        Returns:
            Tensor: 0-d float32.
        """
        log_p = F.log_softmax(logits.float(), dim=1)
        classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        target = (labels.unsqueeze(1) == classes).to(log_p.dtype)
        p, count = log_p.exp(), labels.numel()
        if weight is not None:
            target = target * weight.unsqueeze(1)
            p = p * weight.unsqueeze(1)
            count = weight.sum()
        entropy = (log_p * target).sum() if self.ce else 0
        overlap = (p * target).sum((0, 2, 3)) if self.dice else 0
        total = (p * p).sum((0, 2, 3)) + (target * target).sum((0, 2, 3)) if self.dice else 0
        entropy, count, overlap, total = processes.add_up(entropy, count, overlap, total)
        loss = 0
        if self.ce:
            loss = loss - self.ce * entropy / (count if weight is None else count.clamp(min=1))
        if self.dice:
            loss = loss + self.dice * (1 - (2 * overlap + self.smooth) / (total + self.smooth)).mean()
        return loss


@LOSSES.register_module()
class SoftmaxMSE(nn.Module):
    """Mean squared difference of softmax probabilities from the teacher's (Mean Teacher, Tarvainen & Valpola 2017)."""

    soft = True

    def forward(self, logits, probabilities, weight=None):
        """Compare ``(B, K, H, W)`` logits with ``(B, K, H, W)`` probabilities; ``weight`` ``(B, H, W)`` or None."""
        squares = (logits.float().softmax(1) - probabilities).square().mean(1)
        if weight is None:
            return squares.mean()
        total, count = processes.add_up((squares * weight).sum(), weight.sum())
        return total / count.clamp(min=1)
