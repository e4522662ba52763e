"""The command ``cmems``. Nothing here imports torch before a command runs, so that ``--help`` is quick."""

from cmems.cli.commands import main

__all__ = ["main"]
