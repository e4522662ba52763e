"""Layers whose torch counterparts are slow on CPUs, or add up in no fixed order on GPUs."""

import warnings
from contextlib import contextmanager
from functools import lru_cache

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn import functional as F

from cmems import ops

_views = None


@contextmanager
def views_in_one_batch(sizes, generators):
    """Let each of the views that a CPU batch holds, one after the other, answer as if it were alone.

    Each has BatchNorm statistics and dropout of its own, in networks that consist of this module's layers.

    Args:
        sizes (list[int]): Images of each view.
        generators (list[torch.Generator]): What each view's dropout draws from.
    """
    global _views
    _views = list(sizes), list(generators)
    try:
        yield
    finally:
        _views = None


class ConvNormAct(ConvModule):
    """mmcv's ConvModule with padding, a bias and BatchNorm that folds into the convolution when predicting.

    On a CPU, compiled operators take over: in training BatchNorm, leaky ReLU and the dropout behind them as one; in
    prediction the whole layer, where that is faster.
    """

    def __init__(self, in_channels, channels, kernel_size=3, **layers):
        with warnings.catch_warnings():  # mmcv finds a bias before a norm unnecessary; the paper's UNet has it
            warnings.filterwarnings("ignore", "Unnecessary conv bias")
            layers = dict(layers, padding=kernel_size // 2, bias=True, efficient_conv_bn_eval=True)
            super().__init__(in_channels, channels, kernel_size, **layers)

    def forward(self, x, dropout=None):
        """Convolve, normalise and activate ``(B, C, H, W)``, then drop what the ``dropout`` layer drops."""
        norm = self.norm if self.with_norm else None
        fits = self._fits(norm)
        trains = fits and norm.training and self.activate.negative_slope > 0 and _drops_elements(dropout)
        if not _views and not (trains and x.device.type == "cpu"):
            predicts = fits and self._predicts(x, norm)
            found = ops.convolve(x, self.conv, norm, self.activate.negative_slope) if predicts else None
            x = super().forward(x) if found is None else found
            return x if dropout is None else dropout(x)
        parts, generators = _views or (None, [None])
        if not self._in_order:
            x = torch.cat([super(ConvNormAct, self).forward(part) for part in x.split(parts)])
            return x if dropout is None else dropout(x)
        x = self.conv(x)
        trains = trains and ops.NormActDrop.takes(x, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        parts = parts or [len(x)]
        counts = [n * x.shape[2] * x.shape[3] for n in parts] if trains else [0]
        if min(counts) < 2:
            if self.with_norm:
                x = torch.cat([norm(part) for part in x.split(parts)]) if len(parts) > 1 else norm(x)
            x = self.activate(x) if self.with_activation else x
            return x if dropout is None else dropout(x)
        rate = dropout.p if dropout is not None and dropout.training else 0.0
        seeds = [int(torch.empty((), dtype=torch.int64).random_(generator=g)) if rate else 0 for g in generators]
        slope = self.activate.negative_slope
        x, means, variances = ops.NormActDrop.apply(x, norm.weight, norm.bias, norm.eps, slope, rate, seeds, parts)
        for count, mean, variance in zip(counts, means, variances, strict=True):
            norm.num_batches_tracked.add_(1)
            momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), momentum)
        return x

    @property
    def _in_order(self):
        """Whether mmcv computes the convolution, the norm and the activation, and nothing else."""
        return self.order == ("conv", "norm", "act") and not self.with_explicit_padding

    def _fits(self, norm):
        """Tell whether the operators compute what these layers do."""
        return (
            type(norm) is nn.BatchNorm2d
            and norm.track_running_stats
            and norm.num_batches_tracked is not None
            and self.with_activation
            and type(self.activate) is nn.LeakyReLU
            and self._in_order
            and not _hooked(norm, self.activate)
        )

    def _predicts(self, x, norm):
        autocast = torch.is_autocast_enabled("cpu")
        return (
            not norm.training
            and not torch.is_grad_enabled()
            and type(self.conv) is nn.Conv2d
            and not _hooked(self.conv)
            and x.dtype == (torch.get_autocast_dtype("cpu") if autocast else torch.float32)
            and ops.outruns(x)
        )


def _hooked(*modules):
    """Tell whether a module's hooks must run, which only its own call does."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules)


def _drops_elements(dropout):
    """Tell whether a layer, or None, drops elements one by one and not all of them."""
    return dropout is None or (type(dropout) in (nn.Dropout, Dropout) and 0 <= dropout.p < 1 and not _hooked(dropout))


class Dropout(nn.Dropout):
    """torch's Dropout, several times faster on CPUs, where torch makes one Bernoulli number after another.

    Here eight elements share 64 bits of torch's generator, so ``torch.manual_seed`` decides the mask as ever. The rate
    is rounded to a multiple of 1/256, and what is kept is scaled accordingly. On other devices this is torch's layer.
    """

    def forward(self, x):
        """Drop elements of a tensor of any shape and memory format."""
        threshold = min(round(self.p * 256), 255)
        if not self.training or not threshold or self.p == 1 or x.device.type != "cpu":
            return super().forward(x)
        if _views:
            return torch.cat(
                [self._drop(part, threshold, g) for part, g in zip(x.split(_views[0]), _views[1], strict=True)]
            )
        return self._drop(x, threshold)

    @staticmethod
    def _drop(x, threshold, generator=None):
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
        kept = torch.empty_like(x, requires_grad=False)  # without gaps, in the memory order of x
        flat = kept.as_strided((x.numel(),), (1,))
        torch.ge(words.view(torch.uint8)[: x.numel()], threshold, out=flat)
        return x * kept.mul_(256 / (256 - threshold))


class Upsample2x(nn.Module):
    """Twofold bilinear upsampling with aligned corners, in a fixed order of summation backwards.

    On GPUs its gradient is two matrix products: torch's scatters with atomic additions, so that two runs differ.
    """

    def forward(self, x, skip=None):
        """Upsample ``(B, C, H, W)`` to ``(B, C, 2H, 2W)``, behind the channels of a ``skip`` of that size, if any."""
        if ops.Upsample2x.takes(x, skip):
            return ops.Upsample2x.apply(x, skip)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True) if x.is_cpu else Upsampled.apply(x)
        return x if skip is None else torch.cat([skip, x], dim=1)


class MaxPool2x(nn.Module):
    """The largest of every 2x2 pixels; of an odd side the last row or column is left out."""

    def forward(self, x):
        """Pool ``(B, C, H, W)`` to ``(B, C, H // 2, W // 2)``."""
        return ops.MaxPool2x.apply(x) if ops.MaxPool2x.takes(x) else F.max_pool2d(x, 2)


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
