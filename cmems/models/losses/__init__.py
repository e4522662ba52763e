"""Pixel losses and the objectives that a method is a list of."""

from cmems.models.losses.auxiliary import DeepSupervision, GlobalContrast, LocalContrast, PrototypeContrast
from cmems.models.losses.objectives import Consistency, CopyPaste, Objective, Supervised
from cmems.models.losses.segmentation import CrossEntropyDice, SoftmaxMSE

__all__ = [
    "Consistency",
    "CopyPaste",
    "CrossEntropyDice",
    "DeepSupervision",
    "GlobalContrast",
    "LocalContrast",
    "Objective",
    "PrototypeContrast",
    "SoftmaxMSE",
    "Supervised",
]
