"""Layers whose torch counterparts are slow on CPUs, or add up in no fixed order on GPUs."""

from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F


class Dropout(nn.Dropout):
    """torch's Dropout, several times faster on CPUs, where torch makes one Bernoulli number after another.

    Here eight elements share 64 bits of torch's generator, so ``torch.manual_seed`` decides the mask as ever. The rate
    is rounded to a multiple of 1/256, and what is kept is scaled accordingly. On other devices this is torch's layer.
    """

    def forward(self, x):
        """Drop elements of a tensor of any shape and memory format."""
        threshold = min(round(self.p * 256), 255)
        if not self.training or not threshold or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = torch.empty_like(x, requires_grad=False)  # without gaps, in the memory order of x
        flat = kept.as_strided((x.numel(),), (1,))
        torch.ge(words.view(torch.uint8)[: x.numel()], threshold, out=flat)
        return x * kept.mul_(256 / (256 - threshold))


class Upsample2x(nn.Module):
    """Twofold bilinear upsampling with aligned corners; on GPUs its gradient is two matrix products.

    torch's gradient there scatters with atomic additions, so that two runs differ.
    """

    def forward(self, x):
        """Upsample ``(B, C, H, W)`` to ``(B, C, 2H, 2W)``."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True) if x.is_cpu else Upsampled.apply(x)


class Upsampled(torch.autograd.Function):
    """torch's upsampling forward, its transpose as matrix products backward."""

    @staticmethod
    def forward(context, x):
        """Upsample."""
        context.size = x.shape[-2:]
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    @staticmethod
    def backward(context, gradient):
        """Multiply by the transposed interpolation, rows then columns."""
        height, width = context.size
        rows, columns = (_weights(n, gradient.dtype, gradient.device) for n in (height, width))
        batch, channels = gradient.shape[:2]
        if not gradient.is_contiguous(memory_format=torch.channels_last):
            return rows.T @ gradient @ columns
        flat = gradient.permute(0, 2, 3, 1)
        flat = rows.T @ flat.reshape(batch, 2 * height, 2 * width * channels)
        flat = columns.T @ flat.view(batch * height, 2 * width, channels)
        return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


@lru_cache
def _weights(n, dtype, device):
    """Return the ``(2n, n)`` matrix of the interpolation along one axis."""
    unit = torch.eye(n, device=device).unsqueeze(0)
    return F.interpolate(unit, scale_factor=2, mode="linear", align_corners=True)[0].T.to(dtype)
