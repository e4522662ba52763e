"""``python -m cmems`` is the command ``cmems``."""

from cmems.cli import main

if __name__ == "__main__":
    main()
