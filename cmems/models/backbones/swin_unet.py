"""Swin-Unet (Cao et al., ECCV workshops 2022): a U-shaped network of shifted-window transformers."""

import torch
from torch import nn
from torch.nn import functional as F

from cmems.errors import InputError
from cmems.models.backbones.base import EncoderDecoder
from cmems.models.backbones.windows import (
    GridConv,
    join_heads,
    join_windows,
    pad_to_multiple,
    split_heads,
    split_windows,
)
from cmems.models.layers import Dropout
from cmems.registry import BACKBONES


def _regions(size, window, shift, device):
    """Label the positions along one padded and rolled axis: wrapped around or not, padding or not."""
    padded = size + -size % window
    origin = torch.arange(shift, padded + shift, device=device)
    return (origin >= padded) + 2 * (origin % padded >= size)


class WindowAttention(nn.Module):
    """Attention within windows that may be shifted, with a learned bias per head and relative position.

    A grid is padded to whole windows and rolled for the shift; tokens attend only to tokens of their own region, so
    neither padding nor the opposite border is seen. Along a side no longer than the window there is one window, and
    no shift (Swin Transformer's rule).

    Args:
        channels (int): C, a multiple of ``heads``.
        heads (int): Attention heads.
        window (int): Side of the windows.
        shifted (bool): Shift the windows by half their side.
    """

    def __init__(self, channels, heads, window, shifted):
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.empty(heads, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x):
        """Map ``(B, H, W, C)`` to the same shape, for any H and W."""
        size, batch = x.shape[1:3], x.shape[0]
        window = [min(self.window, side) for side in size]
        shift = [w // 2 if self.shifted and w < side else 0 for w, side in zip(window, size, strict=True)]
        x = pad_to_multiple(x, *window)
        padded = x.shape[1:3]
        if any(shift):
            x = x.roll([-s for s in shift], (1, 2))
        windows = split_windows(x, *window)
        mask = self.relative_bias(window)[None]
        if any(shift) or padded != size:
            rows, columns = (_regions(n, w, s, x.device) for n, w, s in zip(size, window, shift, strict=True))
            region = split_windows((4 * rows[:, None] + columns)[None, :, :, None], *window)[0, ..., 0]
            apart = region[:, None, :, None] != region[:, None, None, :]  # (windows, 1, tokens, tokens)
            mask = mask.masked_fill(apart, float("-inf")).repeat(batch, 1, 1, 1)
        q, k, v = (part.flatten(0, 1) for part in split_heads(self.qkv(windows), 3, self.heads))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        out = join_windows(self.out(join_heads(out).unflatten(0, (batch, -1))), *window, *padded)
        if any(shift):
            out = out.roll(shift, (1, 2))
        return out[:, : size[0], : size[1]]

    def relative_bias(self, window):
        """Return the ``(heads, tokens, tokens)`` bias of a window of ``(rows, columns)``."""
        rows, columns = (torch.arange(n, device=self.bias.device) for n in window)
        rows = rows[:, None] - rows + self.window - 1
        columns = columns[:, None] - columns + self.window - 1
        bias = self.bias[:, rows[:, None, :, None], columns[None, :, None, :]]  # (heads, row, column, row, column)
        return bias.flatten(3, 4).flatten(1, 2)


class SwinBlock(nn.Module):
    """Window attention and a two-layer perceptron, each normed, residual and skipped at times (stochastic depth)."""

    def __init__(self, channels, heads, window, shifted, mlp_ratio, drop_path):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shifted)
        hidden = int(mlp_ratio * channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop = Dropout(drop_path)

    def forward(self, x):
        """Map ``(B, H, W, C)`` to the same shape."""
        x = x + self.attention(self.norm1(x)) * self.kept(x)
        return x + self.mlp(self.norm2(x)) * self.kept(x)

    def kept(self, x):
        """Return each sample's factor of a residual branch."""
        return self.drop(x.new_ones(len(x), 1, 1, 1)) if self.training and self.drop.p else 1


class PatchExpand(nn.Module):
    """Turn every token into ``factor`` times ``factor`` tokens of ``channels`` channels."""

    def __init__(self, in_channels, channels, factor):
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(in_channels, factor * factor * channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        """Map ``(B, H, W, C)`` to ``(B, factor * H, factor * W, channels)``."""
        height, width = x.shape[1:3]
        tokens = self.expand(x).flatten(1, 2).unflatten(-1, (self.factor * self.factor, -1))
        return self.norm(join_windows(tokens, self.factor, self.factor, self.factor * height, self.factor * width))


@BACKBONES.register_module()
class SwinUNet(EncoderDecoder):
    """Swin-Unet (Cao et al., *Swin-Unet: Unet-like Pure Transformer*, 2022), trained from random weights.

    Patches of ``patch`` pixels, levels of Swin blocks whose windows are shifted in every other block, patch merging
    between levels, and patch expanding with skips on the way back; the last expansion returns to the image's grid.
    ``encode`` returns one map per level at strides ``patch``, ``2 * patch``, ... Height and width must be multiples of
    ``divisor = patch * 2 ** (levels - 1)``: 32 by default, 16 with ``patch=2``. Windows need not fit the grids.

    Where the authors leave a choice: patch merging is a 2x2 convolution after the norm (the same linear map as joining
    four tokens), and a decoder level has as many blocks as the encoder's.

    Args:
        num_classes (int): K, background included.
        in_channels (int): Image channels. Default 1.
        embed_dim (int): Channels of the finest level; every level doubles them.
        depths (tuple[int]): Blocks per level, fine to coarse.
        heads (tuple[int]): Attention heads per level; each divides its level's channels.
        window (int): Side of the windows (4, 7 or 8 are usual).
        patch (int): Side of the patches (2 or 4 are usual).
        mlp_ratio (float): Hidden channels of the perceptrons, as a multiple of the level's.
        drop_path (float): Rate of stochastic depth at the deepest block; it grows linearly from 0.

    Raises:
        InputError: For heads that do not divide the channels or do not match ``depths``; for images that do not fit.
    """

    def __init__(
        self,
        num_classes,
        in_channels=1,
        embed_dim=96,
        depths=(2, 2, 2, 2),
        heads=(3, 6, 12, 24),
        window=7,
        patch=4,
        mlp_ratio=4.0,
        drop_path=0.1,
    ):
        super().__init__()
        channels = [embed_dim * 2**i for i in range(len(depths))]
        if len(heads) != len(depths):
            raise InputError(f"SwinUNet: expected one value per level in heads and depths, got {heads} and {depths}")
        for c, h in zip(channels, heads, strict=True):
            if c % h:
                raise InputError(f"SwinUNet: heads={h} does not divide the {c} channels of its level")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.divisor = patch * 2 ** (len(depths) - 1)
        self.feature_channels, self.level_channels = tuple(channels), (*channels[::-1], embed_dim)
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        rates = [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(len(depths))]

        def level(i):
            return nn.Sequential(
                *(SwinBlock(channels[i], heads[i], window, j % 2 == 1, mlp_ratio, r) for j, r in enumerate(rates[i]))
            )

        inner = range(len(depths) - 1)
        self.embed = nn.Sequential(GridConv(in_channels, embed_dim, patch), nn.LayerNorm(embed_dim))
        self.encoder = nn.ModuleList(level(i) for i in range(len(depths)))
        self.merge = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(channels[i]), GridConv(channels[i], channels[i + 1], 2)) for i in inner
        )
        self.norm = nn.LayerNorm(channels[-1])
        self.expand = nn.ModuleList(PatchExpand(channels[i + 1], channels[i], 2) for i in reversed(inner))
        self.squeeze = nn.ModuleList(nn.Linear(2 * channels[i], channels[i]) for i in reversed(inner))
        self.decoder = nn.ModuleList(level(i) for i in reversed(inner))
        self.final = nn.Sequential(nn.LayerNorm(embed_dim), PatchExpand(embed_dim, embed_dim, patch))
        self.head = nn.Conv2d(embed_dim, num_classes, 1, bias=False)
        self.apply(_initialise)

    def encode(self, images):
        """Encode ``(B, C, H, W)`` images into one map per level, fine to coarse."""
        self.check_input(images)
        x = self.encoder[0](self.embed(images.permute(0, 2, 3, 1)))
        features = [x]
        for merge, block in zip(self.merge, self.encoder[1:], strict=True):
            features.append(block(merge(features[-1])))
        features[-1] = self.norm(features[-1])
        return [f.permute(0, 3, 1, 2) for f in features]

    def decode_levels(self, features):
        """Decode the levels' maps, coarse to fine, and one more on the image's grid."""
        levels = [features[-1]]
        for expand, squeeze, block, skip in zip(self.expand, self.squeeze, self.decoder, features[-2::-1], strict=True):
            x = expand(levels[-1].permute(0, 2, 3, 1))
            x = block(squeeze(torch.cat([x, skip.permute(0, 2, 3, 1)], dim=-1)))
            levels.append(x.permute(0, 3, 1, 2))
        levels.append(self.final(levels[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return levels


def _initialise(module):
    """Draw a linear layer's weights as Swin Transformer does; the other layers keep torch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
