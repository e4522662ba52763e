"""Readers of what people have on disk, one layout each."""

from cmems.datasets.readers.acdc import ACDCReader
from cmems.datasets.readers.base import Case, NiftiReader, Reader
from cmems.datasets.readers.folder import NiftiFolderReader
from cmems.datasets.readers.slices import SSL4MISReader, TransUNetReader
from cmems.datasets.readers.synapse import SynapseReader

__all__ = [
    "ACDCReader",
    "Case",
    "NiftiFolderReader",
    "NiftiReader",
    "Reader",
    "SSL4MISReader",
    "SynapseReader",
    "TransUNetReader",
]
