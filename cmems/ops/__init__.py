"""Compiled CPU operators, for what torch spends a step or a validation on without need."""

from cmems.ops.build import enable, usable, why_not
from cmems.ops.functions import MaxPool2x, NormActDrop, Upsample2x, convolve, label, outruns, score_labels

__all__ = [
    "MaxPool2x",
    "NormActDrop",
    "Upsample2x",
    "convolve",
    "enable",
    "label",
    "outruns",
    "score_labels",
    "usable",
    "why_not",
]
