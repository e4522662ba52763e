"""Reading, preparing and serving images; phantoms; synthesis."""

from cmems.datasets import readers, sources, synthesis, volumes
from cmems.datasets.prepared import PreparedDataset

__all__ = ["PreparedDataset", "readers", "sources", "synthesis", "volumes"]
