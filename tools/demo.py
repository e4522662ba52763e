"""The main job on phantom data, as ``cmems demo``: python tools/demo.py."""

from cmems.cli import main

if __name__ == "__main__":
    main("demo")
