"""CMEMS: medical image segmentation from one labelled slice."""

__version__ = "0.1.0"
