"""Compiled CPU operators, for what torch spends the step on beside convolutions."""

from cmems.ops.functions import MaxPool2x, NormActDrop, Upsample2x
from cmems.ops.library import enable, usable, why_not

__all__ = ["MaxPool2x", "NormActDrop", "Upsample2x", "enable", "usable", "why_not"]
