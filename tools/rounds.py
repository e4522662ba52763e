"""Train in rounds, as ``cmems rounds``: python tools/rounds.py CONFIG CONFIG_OF_ROUND_2."""

from cmems.cli import main

if __name__ == "__main__":
    main("rounds")
