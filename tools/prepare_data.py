"""Turn a raw folder into a prepared data set, as ``cmems prepare``: python tools/prepare_data.py acdc RAW OUT."""

from cmems.cli import main

if __name__ == "__main__":
    main("prepare")
