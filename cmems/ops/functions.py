"""Differentiable CPU operators on ``(B, C, H, W)`` maps for which ``usable`` holds; first derivatives only."""

from ctypes import c_double, c_float, c_int, c_int64, c_uint64

import torch
from torch.autograd.function import once_differentiable

from cmems.ops.build import call


class NormActDrop(torch.autograd.Function):
    """Batch norm with the batch's statistics, leaky ReLU and dropout in one pass over the map and back.

    y = dropout(leaky_relu(weight (x - mean) / sqrt(var + eps) + bias)), in x's dtype; all arithmetic is float32. Each
    of the ``parts``, whose lengths add up to the batch's, has statistics of its own, and of the ``seeds`` one that
    decides what is dropped. Returns y, and the parts' means and biased variances, ``(P, C)`` without a gradient.
    """

    @staticmethod
    def forward(context, x, weight, bias, eps, slope, rate, seeds, parts):
        """Normalise, activate, drop."""
        y, channels = torch.empty_like(x), c_int(x.shape[1])
        mean, variance = torch.empty(2, len(parts), x.shape[1])
        pieces = x.split(parts)
        pixels = [c_int64(piece.numel() // x.shape[1]) for piece in pieces]
        for k, piece in enumerate(pieces):
            call("moments", x.dtype, piece, pixels[k], channels, mean[k], variance[k])
        inverse = (variance + eps).rsqrt()
        gain = weight.detach() * inverse
        offset = bias.detach() - mean * gain
        context.parts = parts
        context.rest = [(c_float(slope), c_double(rate), c_uint64(seed)) for seed in seeds]
        for k, (piece, out) in enumerate(zip(pieces, y.split(parts), strict=True)):
            call("activate", x.dtype, piece, out, pixels[k], channels, gain[k], offset[k], *context.rest[k])
        context.save_for_backward(x, mean, inverse, gain, offset)
        context.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(context, gradient, *_):
        """Return the gradients of x, weight and bias."""
        x, *sums = context.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dx, (dweight, dbias) = torch.empty_like(x), torch.empty(2, len(context.parts), x.shape[1])
        pieces = zip(*(t.split(context.parts) for t in (x, gradient, dx)), strict=True)
        for k, maps in enumerate(pieces):
            sizes = c_int64(maps[0].numel() // x.shape[1]), c_int(x.shape[1])
            mine = (each[k] for each in sums)
            call("activate_backward", x.dtype, *maps, *sizes, *mine, *context.rest[k], dweight[k], dbias[k])
        return dx, dweight.sum(0), dbias.sum(0), None, None, None, None, None


class Upsample2x(torch.autograd.Function):
    """Twofold bilinear upsampling with aligned corners; behind the channels of ``skip``, if there is one."""

    @staticmethod
    def forward(context, x, skip):
        """Upsample ``(B, C, H, W)`` to ``(B, S + C, 2H, 2W)``; skip ``(B, S, 2H, 2W)``."""
        batch, channels, height, width = x.shape
        first = skip.shape[1] if skip is not None else 0
        context.first, context.sizes = first, (c_int64(batch), c_int64(height), c_int64(width), c_int(channels))
        y = _map(x, (batch, first + channels, 2 * height, 2 * width))
        call("upsample", x.dtype, x, x if skip is None else skip, y, *context.sizes, c_int(first))
        return y

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """Return the gradients of x and skip."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = gradient.shape
        first = context.first
        dx = _map(gradient, (batch, channels - first, height // 2, width // 2))
        call("upsample_backward", gradient.dtype, gradient[:, first:], dx, *context.sizes, c_int64(channels))
        return dx, gradient[:, :first] if first else None


class MaxPool2x(torch.autograd.Function):
    """Largest of every 2x2 pixels, of even height and width."""

    @staticmethod
    def forward(context, x):
        """Pool ``(B, C, H, W)`` to ``(B, C, H / 2, W / 2)``."""
        batch, channels, height, width = x.shape
        y = _map(x, (batch, channels, height // 2, width // 2))
        which = torch.empty_like(y, dtype=torch.uint8)
        context.sizes = c_int64(batch * height // 2), c_int64(width // 2), c_int(channels)
        call("pool", x.dtype, x, y, which, *context.sizes)
        context.save_for_backward(which)
        return y

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """Return the gradient of x."""
        (which,) = context.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = gradient.shape
        dx = _map(gradient, (batch, channels, 2 * height, 2 * width))
        call("pool_backward", gradient.dtype, gradient, which, dx, *context.sizes)
        return dx


def _map(like, shape):
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)
