"""Segmentation networks."""

from cmems.models.backbones.base import EncoderDecoder
from cmems.models.backbones.mt_unet import MTUNet
from cmems.models.backbones.swin_unet import SwinUNet
from cmems.models.backbones.timm_unet import TimmUNet
from cmems.models.backbones.unet import UNet

__all__ = ["EncoderDecoder", "MTUNet", "SwinUNet", "TimmUNet", "UNet"]
