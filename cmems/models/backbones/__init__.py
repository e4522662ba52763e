"""Segmentation networks."""

from cmems.models.backbones.base import EncoderDecoder
from cmems.models.backbones.unet import UNet

__all__ = ["EncoderDecoder", "UNet"]
