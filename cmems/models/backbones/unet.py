"""The UNet of the paper's appendix D."""

from mmcv.cnn import build_conv_layer
from torch import nn

from cmems.errors import InputError
from cmems.models.backbones.base import EncoderDecoder
from cmems.models.layers import ConvNormAct, Dropout, MaxPool2x, Upsample2x
from cmems.registry import BACKBONES


class ConvBlock(nn.Sequential):
    """Conv3x3, norm, activation, dropout, Conv3x3, norm, activation."""

    def __init__(self, in_channels, channels, dropout, **layers):
        super().__init__(
            ConvNormAct(in_channels, channels, **layers),
            Dropout(dropout),
            ConvNormAct(channels, channels, **layers),
        )

    def forward(self, x):
        """Turn ``(B, in_channels, H, W)`` into ``(B, channels, H, W)``."""
        first, dropout, second = self
        return second(first(x, dropout))


class UpBlock(nn.Module):
    """Conv1x1 and twofold upsampling of the coarse level, joined with the skip, then a ConvBlock.

    Args:
        in_channels (int): Channels of the coarse level.
        channels (int): Channels of the result.
        skip_channels (int | None): Channels of the skip; 0 for a level without one. Default: ``channels``.
        **layers: ``conv_cfg``, ``norm_cfg``, ``act_cfg``.
    """

    def __init__(self, in_channels, channels, skip_channels=None, **layers):
        super().__init__()
        skip_channels = channels if skip_channels is None else skip_channels
        self.reduce = build_conv_layer(layers.get("conv_cfg"), in_channels, channels, 1)
        # SSL4MIS, whose UNet has these channels and dropout rates, aligns the corners.
        self.upsample = Upsample2x()
        self.block = ConvBlock(skip_channels + channels, channels, 0.0, **layers)

    def forward(self, coarse, skip=None):
        """Join ``coarse`` ``(B, C, H, W)`` with the ``skip`` of twice its height and width."""
        return self.block(self.upsample(self.reduce(coarse), skip))


@BACKBONES.register_module()
class UNet(EncoderDecoder):
    """UNet with five levels (appendix D); 1,813,764 parameters at four classes.

    Args:
        num_classes (int): K, background included.
        in_channels (int): Image channels. Default 1.
        channels (tuple[int]): Channels per level, fine to coarse.
        dropout (tuple[float]): Dropout rate per encoder level; the decoder has none.
        conv_cfg, norm_cfg, act_cfg (dict | None): Layers for mmcv's builders, e.g. ``norm_cfg=dict(type="SyncBN")``.
    """

    takes_views_together = True  # nothing but the layers of cmems.models.layers looks at the batch

    def __init__(
        self,
        num_classes,
        in_channels=1,
        channels=(16, 32, 64, 128, 256),
        dropout=(0.05, 0.1, 0.2, 0.3, 0.5),
        conv_cfg=None,
        norm_cfg=None,
        act_cfg=None,
    ):
        super().__init__()
        layers = dict(
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg or dict(type="BN"),
            act_cfg=act_cfg or dict(type="LeakyReLU", negative_slope=0.01),
        )
        if len(channels) < 2 or len(dropout) != len(channels):
            raise InputError(
                f"UNet: channels, dropout: expected two or more, as many of each, got {channels!r} and {dropout!r}"
            )
        if not all(type(count) is int and count > 0 for count in channels):
            raise InputError(f"UNet: channels: expected positive integers, got {channels!r}")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.divisor = 2 ** (len(channels) - 1)
        self.feature_channels, self.level_channels = tuple(channels), tuple(channels[::-1])
        inputs = (in_channels, *channels[:-1])
        self.encoder = nn.ModuleList(
            ConvBlock(i, c, p, **layers) for i, c, p in zip(inputs, channels, dropout, strict=True)
        )
        self.pool = MaxPool2x()
        self.decoder = nn.ModuleList(
            UpBlock(coarse, fine, **layers) for fine, coarse in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.head = build_conv_layer(conv_cfg, channels[0], num_classes, 3, padding=1)

    def encode(self, images):
        """Encode ``(B, C, H, W)`` images into five ``(B, channels[l], H / 2^l, W / 2^l)`` maps."""
        self.check_input(images)
        features = [self.encoder[0](images)]
        for block in self.encoder[1:]:
            features.append(block(self.pool(features[-1])))
        return features

    def decode_levels(self, features):
        """Decode five feature maps into five, coarse to fine; the first is the coarsest feature map itself."""
        levels = [features[-1]]
        for block, skip in zip(self.decoder, features[-2::-1], strict=True):
            levels.append(block(levels[-1], skip))
        return levels
