"""Compiled CPU operators, for what torch spends the step on beside convolutions."""

from cmems.ops.build import enable, usable, why_not
from cmems.ops.functions import MaxPool2x, NormActDrop, Upsample2x

__all__ = ["MaxPool2x", "NormActDrop", "Upsample2x", "enable", "usable", "why_not"]
