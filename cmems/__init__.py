"""CMEMS: medical image segmentation from one labelled slice."""

__version__ = "0.1.0"


def __getattr__(name):
    """Import ``cmems.Segmenter`` where it is used, and torch with it: ``import cmems`` is quick."""
    if name == "Segmenter":
        from cmems.apis import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
