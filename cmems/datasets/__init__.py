"""Reading, preparing and serving images; phantoms; synthesis."""

from cmems.datasets import descriptions, orientation, propagation, readers, sources, synthesis, volumes
from cmems.datasets.prepared import PreparedDataset

__all__ = [
    "PreparedDataset",
    "descriptions",
    "orientation",
    "propagation",
    "readers",
    "sources",
    "synthesis",
    "volumes",
]
