"""``cmems info``."""

ABOUT = "Tell versions and device, as a report of a fault needs them."
EXAMPLE = "cmems info"


def add_arguments(parser):
    """Add nothing: there is nothing to choose."""


def run(args):
    """Print a line per fact."""
    from cmems.apis.record import environment

    for name, value in environment().items():
        print(f"{name:17} {value}")
