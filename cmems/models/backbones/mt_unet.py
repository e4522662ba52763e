"""MT-UNet (Wang et al., ICASSP 2022): a UNet whose inner levels are mixed transformers."""

import torch
from torch import nn
from torch.nn import functional as F

from cmems.models.backbones.base import EncoderDecoder
from cmems.models.backbones.unet import ConvBlock, UpBlock
from cmems.models.backbones.windows import (
    GridConv,
    join_heads,
    join_windows,
    pad_to_multiple,
    resize_grid,
    split_heads,
    split_windows,
)
from cmems.models.layers import Dropout
from cmems.registry import BACKBONES

WINDOW = 4


class LocalGlobalAttention(nn.Module):
    """Attention within windows, then among windows, each window being one token.

    A window becomes the average of its tokens, weighted by a softmax that depends on the window's mean. Windows attend
    along their row and along their column under a Gaussian prior: ``softmax(q·k / sqrt(d) - shift * distance^2)``, the
    shift learned per head and kept positive. The result is upsampled, joined with the local one and squeezed.

    The published prior also has a bias added to every distance, which the softmax cancels; it is left out. Row and
    column attention share queries, keys and values and are summed, where the paper says "axial" and no more.

    Args:
        channels (int): C, a multiple of ``heads``.
        heads (int): Attention heads.
    """

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.local_qkv = nn.Linear(channels, 3 * channels)
        self.local_out = nn.Linear(channels, channels)
        self.pool = nn.Linear(channels, WINDOW * WINDOW)
        self.global_qkv = nn.Linear(channels, 3 * channels)
        self.global_out = nn.Linear(channels, channels)
        self.shift = nn.Parameter(torch.zeros(heads))
        self.squeeze = nn.Linear(2 * channels, channels)

    def forward(self, x):
        """Map ``(B, H, W, C)`` to the same shape, for any H and W."""
        height, width = x.shape[1:3]
        padded = pad_to_multiple(x, WINDOW, WINDOW)
        real = None
        if padded.shape != x.shape:
            real = pad_to_multiple(x.new_ones(1, height, width, 1, dtype=torch.bool), WINDOW, WINDOW)
            real = split_windows(real, WINDOW, WINDOW)[..., 0]  # (1, windows, tokens)
        rows, columns = padded.shape[1] // WINDOW, padded.shape[2] // WINDOW

        windows = self.attend_within(split_windows(padded, WINDOW, WINDOW), real)
        local = join_windows(windows, WINDOW, WINDOW, *padded.shape[1:3])[:, :height, :width]
        pooled = self.attend_among(self.pool_windows(windows, real).unflatten(1, (rows, columns)))
        pooled = resize_grid(pooled, rows * WINDOW, columns * WINDOW)[:, :height, :width]
        return self.squeeze(torch.cat([local, pooled], dim=-1))

    def attend_within(self, windows, real):
        """Attend within each of ``(B, windows, tokens, C)``; ``real`` is false where a token is padding."""
        batch = windows.shape[0]
        q, k, v = (part.flatten(0, 1) for part in split_heads(self.local_qkv(windows), 3, self.heads))
        mask = None if real is None else real.expand(batch, -1, -1).flatten(0, 1)[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.local_out(join_heads(out).unflatten(0, (batch, -1)))

    def pool_windows(self, windows, real):
        """Pool ``(B, windows, tokens, C)`` to ``(B, windows, C)``; padding takes no part."""
        if real is None:
            weights = self.pool(windows.mean(2))
        else:
            share = real.to(windows.dtype) / real.sum(-1, keepdim=True)
            weights = self.pool((share[:, :, None] @ windows).squeeze(2)).masked_fill(~real, float("-inf"))
        return (weights.softmax(-1)[:, :, None].to(windows.dtype) @ windows).squeeze(2)

    def attend_among(self, x):
        """Attend along the rows and the columns of ``(B, rows, columns, C)``."""
        q, k, v = split_heads(self.global_qkv(x), 3, self.heads)  # (B, rows, heads, columns, d)
        along_rows = self.attend_along(q, k, v)
        along_columns = self.attend_along(*(part.transpose(1, 3) for part in (q, k, v))).transpose(1, 3)
        return self.global_out(join_heads(along_rows + along_columns))

    def attend_along(self, q, k, v):
        """Attend along the last but one axis of ``(B, lines, heads, N, d)`` under the Gaussian prior."""
        n = torch.arange(q.shape[-2], device=q.device)
        squared = (n[:, None] - n).square()
        prior = (-F.softplus(self.shift)[:, None, None] * squared).to(q.dtype)
        lines = q.shape[1]
        out = F.scaled_dot_product_attention(*(part.flatten(0, 1) for part in (q, k, v)), attn_mask=prior[None])
        return out.unflatten(0, (-1, lines))


class ExternalAttention(nn.Module):
    """Multi-head attention to a learned memory that all images share (Guo et al. 2021, "external attention").

    Double normalisation: a softmax over the tokens, then weights that sum to 1 over the memory.

    Args:
        channels (int): C, a multiple of ``heads``.
        heads (int): Attention heads before ``coefficient``.
        memory (int): Rows of the memory.
        coefficient (int): What queries and number of heads are multiplied by.
    """

    def __init__(self, channels, heads, memory=64, coefficient=4):
        super().__init__()
        self.heads = heads * coefficient
        self.query = nn.Linear(channels, coefficient * channels)
        self.keys = nn.Linear(channels // heads, memory, bias=False)  # the softmax over tokens would cancel a bias
        self.values = nn.Linear(memory, channels // heads)
        self.out = nn.Linear(coefficient * channels, channels)

    def forward(self, x):
        """Map ``(B, H, W, C)`` to the same shape."""
        (q,) = split_heads(self.query(x.flatten(1, 2)), 1, self.heads)
        weights = self.keys(q).softmax(-2)
        # Over many tokens a softmax is near the smallest half precision, so that the sum is taken in float32.
        weights = weights.float()
        weights = (weights / (weights.sum(-1, keepdim=True) + 1e-9)).to(q.dtype)
        return self.out(join_heads(self.values(weights))).view_as(x)


class MixedTransformer(nn.Module):
    """One mixed transformer module: local-global attention, then external attention, each normed and residual."""

    def __init__(self, channels, heads, memory, coefficient, dropout):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.inner = LocalGlobalAttention(channels, heads)
        self.outer = ExternalAttention(channels, heads, memory, coefficient)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Map ``(B, H, W, C)`` to the same shape."""
        x = x + self.dropout(self.inner(self.norm1(x)))
        return x + self.dropout(self.outer(self.norm2(x)))


class TokenUp(nn.Module):
    """Halve the channels of a token grid, resize it to the skip's, join the two and squeeze to the skip's channels."""

    def __init__(self, channels, skip_channels):
        super().__init__()
        self.reduce = nn.Linear(channels, skip_channels)
        self.squeeze = nn.Linear(2 * skip_channels, skip_channels)

    def forward(self, coarse, skip):
        """Join two ``(B, H, W, C)`` grids."""
        return self.squeeze(torch.cat([skip, resize_grid(self.reduce(coarse), *skip.shape[1:3])], dim=-1))


@BACKBONES.register_module()
class MTUNet(EncoderDecoder):
    """MT-UNet (Wang et al., *Mixed Transformer U-Net for Medical Image Segmentation*, ICASSP 2022).

    Three convolutional levels (64, 128, 256 channels at strides 1, 2, 4), three levels of mixed transformers (256, 512,
    1024 at strides 8, 16, 32), and the way back with skips. ``encode`` returns the six maps. Any height and width that
    16 divides: windows are padded and their padding masked, a grid of odd side is padded before it is halved, and the
    position table is interpolated to the grid. Floating point of any precision; InputError for other sizes.

    Where the authors are silent or their code and text leave a choice: the decoder squeezes the joined maps (1024 and
    512 channels) to the skip's channels before its transformers; upsampling is bilinear throughout; activations are
    ReLU; dropout acts on the positions' sum and on every residual branch.

    Args:
        num_classes (int): K, background included.
        in_channels (int): Image channels. Default 1.
        width (float): Factor of all channels, rounded to multiples of ``heads``; 0.25 trains on a CPU.
        depth (int): Mixed transformer modules per level and side.
        heads (int): Heads of the window and axial attention.
        memory, coefficient (int): Size of the external attention's memory, and what its heads are multiplied by.
        positions (int): Side of the learned position table (28: 224 pixels).
        dropout (float): Dropout rate of the transformers.
        conv_cfg, norm_cfg, act_cfg (dict | None): The convolutional levels' layers, for mmcv's builders.
    """

    divisor = 16

    def __init__(
        self,
        num_classes,
        in_channels=1,
        width=1.0,
        depth=2,
        heads=8,
        memory=64,
        coefficient=4,
        positions=28,
        dropout=0.1,
        conv_cfg=None,
        norm_cfg=None,
        act_cfg=None,
    ):
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        convs, tokens = (
            [max(1, round(width * c / heads)) * heads for c in channels]
            for channels in ((64, 128, 256), (256, 512, 1024))
        )
        self.feature_channels = (*convs, *tokens)
        self.level_channels = (*tokens[::-1], *convs[::-1])
        layers = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg or dict(type="BN"), act_cfg=act_cfg or dict(type="ReLU"))

        def transformers(channels):
            return nn.Sequential(
                *(MixedTransformer(channels, heads, memory, coefficient, dropout) for _ in range(depth))
            )

        self.stem = nn.ModuleList(
            ConvBlock(i, c, 0.0, **layers) for i, c in zip((in_channels, *convs), convs, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.embed = nn.Linear(convs[2], tokens[0])
        self.positions = nn.Parameter(torch.empty(1, positions, positions, tokens[0]))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(transformers(c) for c in tokens)
        self.down = nn.ModuleList(GridConv(tokens[i], tokens[i + 1], 2) for i in range(2))
        self.token_up = nn.ModuleList(TokenUp(tokens[i + 1], tokens[i]) for i in (1, 0))
        self.token_decoder = nn.ModuleList(transformers(tokens[i]) for i in (1, 0))
        coarse = (tokens[0], convs[2], convs[1])
        self.decoder = nn.ModuleList(UpBlock(i, c, **layers) for i, c in zip(coarse, convs[::-1], strict=True))
        self.head = nn.Conv2d(convs[0], num_classes, 1)

    def encode(self, images):
        """Encode ``(B, C, H, W)`` images into six maps at strides 1, 2, 4, 8, 16, 32 (sides rounded up)."""
        self.check_input(images)
        features = [self.stem[0](images)]
        for block in self.stem[1:]:
            features.append(block(self.pool(features[-1])))
        x = self.embed(self.pool(features[-1]).permute(0, 2, 3, 1))
        x = self.encoder[0](self.dropout(x + resize_grid(self.positions, *x.shape[1:3])))
        features.append(x.permute(0, 3, 1, 2))
        for down, block in zip(self.down, self.encoder[1:], strict=True):
            x = block(down(x))
            features.append(x.permute(0, 3, 1, 2))
        return features

    def decode_levels(self, features):
        """Decode six feature maps into six, coarse to fine; the first is the coarsest feature map itself."""
        levels = [features[-1]]
        for up, block, skip in zip(self.token_up, self.token_decoder, features[-2:-4:-1], strict=True):
            x = block(up(levels[-1].permute(0, 2, 3, 1), skip.permute(0, 2, 3, 1)))
            levels.append(x.permute(0, 3, 1, 2))
        for block, skip in zip(self.decoder, features[2::-1], strict=True):
            levels.append(block(levels[-1], skip))
        return levels
