"""Compare methods and settings, as ``cmems compare``: python tools/compare.py paper_table2 --seeds 0 1 2."""

from cmems.cli import main

if __name__ == "__main__":
    main("compare")
