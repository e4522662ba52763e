"""Train a config, as ``cmems train``: python tools/train.py configs/cmems/unet_acdc.py."""

from cmems.cli import main

if __name__ == "__main__":
    main("train")
