"""Write a phantom data set, as ``cmems phantom``: python tools/make_phantom.py cardiac data/raw/phantom_cardiac."""

from cmems.cli import main

if __name__ == "__main__":
    main("phantom")
