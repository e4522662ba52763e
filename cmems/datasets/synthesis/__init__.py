"""Ω (Eq. 1) and its parts: G changes place and shape, I the look; all batched, on the device."""

from cmems.datasets.synthesis.geometric import (
    BodyFit,
    GeometricChain,
    OrganJitter,
    RadialShape,
    RandomAffine,
    WallShape,
)
from cmems.datasets.synthesis.intensity import (
    AmplitudeMix,
    ClassGain,
    MatchQuantiles,
    PaintClasses,
    RandomGammaGain,
    Trabeculae,
)
from cmems.datasets.synthesis.paste import ExemplarPaste, WarpedExemplar

__all__ = [
    "AmplitudeMix",
    "BodyFit",
    "ClassGain",
    "ExemplarPaste",
    "GeometricChain",
    "MatchQuantiles",
    "OrganJitter",
    "PaintClasses",
    "RadialShape",
    "RandomAffine",
    "RandomGammaGain",
    "Trabeculae",
    "WallShape",
    "WarpedExemplar",
]
