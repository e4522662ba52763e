"""Measure a checkpoint, as ``cmems evaluate``: python tools/test.py CONFIG work_dirs/cmems/unet_acdc/best.pth."""

from cmems.cli import main

if __name__ == "__main__":
    main("evaluate")
