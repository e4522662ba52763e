"""Seeded phantoms, written as NIfTI in the raw layouts of the data sets they stand for."""

from cmems.datasets.phantom.abdomen import ABDOMEN_EXEMPLAR, abdomen_volume, make_abdomen
from cmems.datasets.phantom.cardiac import CARDIAC_EXEMPLAR, cardiac_volume, make_cardiac

__all__ = [
    "ABDOMEN_EXEMPLAR",
    "CARDIAC_EXEMPLAR",
    "abdomen_volume",
    "cardiac_volume",
    "make_abdomen",
    "make_cardiac",
]
