"""Pixel losses and the objectives that a method is a list of."""

from cmems.models.losses.objectives import Consistency, Supervised
from cmems.models.losses.segmentation import CrossEntropyDice

__all__ = ["Consistency", "CrossEntropyDice", "Supervised"]
