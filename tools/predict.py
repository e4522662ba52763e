"""Segment scans, as ``cmems predict``: python tools/predict.py CONFIG CHECKPOINT SCANS OUT."""

from cmems.cli import main

if __name__ == "__main__":
    main("predict")
