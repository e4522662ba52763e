"""Reading, preparing and serving images; phantoms; synthesis."""

from cmems.datasets import descriptions, propagation, readers, sources, synthesis, volumes
from cmems.datasets.prepared import PreparedDataset

__all__ = ["PreparedDataset", "descriptions", "propagation", "readers", "sources", "synthesis", "volumes"]
