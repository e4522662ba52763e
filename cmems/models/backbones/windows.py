"""Square windows of a token grid, and resizing a grid, for the transformer networks; grids are channels-last."""

import torch
from torch import nn
from torch.nn import functional as F


def pad_to_multiple(x, rows, columns):
    """Pad a ``(B, H, W, C)`` grid with zeros below and right, to multiples of ``rows`` and ``columns``."""
    below, right = -x.shape[1] % rows, -x.shape[2] % columns
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def split_windows(x, rows, columns):
    """Cut ``(B, H, W, C)``, whose sides are multiples, into ``(B, H / rows * W / columns, rows * columns, C)``."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // rows, rows, width // columns, columns, channels).transpose(2, 3)
    return x.reshape(batch, -1, rows * columns, channels)


def join_windows(x, rows, columns, height, width):
    """Undo ``split_windows`` for a grid of ``height`` times ``width``."""
    batch, channels = x.shape[0], x.shape[-1]
    x = x.view(batch, height // rows, width // columns, rows, columns, channels).transpose(2, 3)
    return x.reshape(batch, height, width, channels)


def split_heads(x, parts, heads):
    """Split ``(..., N, parts * heads * d)`` into ``parts`` tensors ``(..., heads, N, d)``, each a view."""
    x = x.view(*x.shape[:-1], parts, heads, -1)
    return [part.transpose(-3, -2) for part in x.unbind(-3)]


def join_heads(x):
    """Undo ``split_heads`` for one tensor: ``(..., heads, N, d)`` to ``(..., N, heads * d)``."""
    return x.transpose(-3, -2).flatten(-2)


def resize_grid(x, height, width):
    """Resize ``(B, H, W, C)`` bilinearly with half-pixel centres, as two matrix products.

    torch's interpolation adds its gradient up in no fixed order on GPUs; matrix products do not.
    """
    if x.shape[1:3] == (height, width):
        return x
    rows, columns = (
        _interpolation(old, new, x.dtype, x.device) for old, new in zip(x.shape[1:3], (height, width), strict=True)
    )
    x = columns @ x
    return (rows @ x.flatten(2)).unflatten(2, (width, -1))


def _interpolation(old, new, dtype, device):
    """Return the ``(new, old)`` matrix of the interpolation along one axis.

    It is small, and not kept: what is made while a network is traced, or in inference mode, serves nothing else.
    """
    unit = torch.eye(old, device=device).unsqueeze(0)
    return F.interpolate(unit, size=new, mode="linear", align_corners=False)[0].T.to(dtype)


class GridConv(nn.Conv2d):
    """A convolution of ``(B, H, W, C)`` grids with its kernel's stride, padding below and right what is left over."""

    def __init__(self, in_channels, channels, size):
        super().__init__(in_channels, channels, size, stride=size)

    def forward(self, x):
        """Convolve."""
        return super().forward(pad_to_multiple(x, *self.kernel_size).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
