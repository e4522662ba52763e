"""Weak (W), strong (S) and feature (F) perturbations."""

from cmems.models.perturbations.base import Perturbation
from cmems.models.perturbations.feature import ChannelDropout
from cmems.models.perturbations.mix import CutMix
from cmems.models.perturbations.strong import ColorJitter, Compose, GaussianBlur, Sharpness
from cmems.models.perturbations.weak import RandomRotateFlip

__all__ = [
    "ChannelDropout",
    "ColorJitter",
    "Compose",
    "CutMix",
    "GaussianBlur",
    "Perturbation",
    "RandomRotateFlip",
    "Sharpness",
]
