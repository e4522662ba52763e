"""The main job on phantom data: make it, prepare it, train CMEMS from one labelled slice, measure, draw."""

import time
from pathlib import Path

from cmems.apis import test, train
from cmems.apis.cli import main_guard
from cmems.datasets.phantom import make_cardiac
from cmems.datasets.prepare import prepare
from cmems.registry import READERS

CONFIG = "configs/cmems/unet_phantom_cardiac.py"
RAW, PREPARED, WORK = Path("data/raw/phantom_cardiac"), Path("data/phantom_cardiac"), Path("work_dirs/demo")


@main_guard
def main():
    """Run the steps a user would run by hand, saying each."""
    began = time.monotonic()
    if not RAW.is_dir():
        say("python tools/make_phantom.py cardiac", RAW)
        make_cardiac(RAW)
    say("python tools/prepare_data.py acdc", RAW, PREPARED, "--size 64")
    prepare(READERS.get("acdc")(RAW), PREPARED, size=64)
    say("python tools/train.py", CONFIG, "--work-dir", WORK, "--overwrite")
    train(CONFIG, work_dir=str(WORK), overwrite=True)
    say("python tools/test.py", CONFIG, WORK / "best.pth", "--show-dir", WORK / "panels")
    test(CONFIG, str(WORK / "best.pth"), show_dir=str(WORK / "panels"))
    print(f"\none labelled slice, {time.monotonic() - began:.0f} s; look at")
    for picture in (WORK / "curves.png", *sorted((WORK / "panels").glob("*.png"))[:2]):
        print(f"  {picture}")


def say(*words):
    """Print a command."""
    print("\n$", *words, flush=True)


if __name__ == "__main__":
    main()
