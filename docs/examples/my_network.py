"""A network of one's own: a strided encoder of three levels, and a decoder that joins what it skipped."""

import torch
from torch import nn
from torch.nn import functional as F

from cmems.models.backbones.base import EncoderDecoder
from cmems.registry import BACKBONES


@BACKBONES.register_module()
class SmallNet(EncoderDecoder):
    """Three levels of 16, 32 and 64 channels; height and width are multiples of 4."""

    feature_channels = (16, 32, 64)
    level_channels = (64, 32, 16)
    divisor = 4

    def __init__(self, num_classes, in_channels=1):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.down = nn.ModuleList([block(in_channels, 16), block(16, 32, stride=2), block(32, 64, stride=2)])
        self.up = nn.ModuleList([block(64 + 32, 32), block(32 + 16, 16)])
        self.head = nn.Conv2d(16, num_classes, 1)

    def encode(self, images):
        """Return the maps of the three levels, fine to coarse; the feature perturbation acts on them."""
        features = []
        for down in self.down:
            features.append(images := down(images))
        return features

    def decode_levels(self, features):
        """Return the maps of the three levels, coarse to fine; ``head`` makes logits of the last."""
        *skips, coarsest = features
        levels = [coarsest]
        for up, skip in zip(self.up, reversed(skips), strict=True):
            larger = F.interpolate(levels[-1], size=skip.shape[-2:], mode="bilinear", align_corners=False)
            levels.append(up(torch.cat([skip, larger], 1)))
        return levels


def block(channels, out, stride=1):
    """Convolution, norm, activation."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.LeakyReLU(inplace=True))
