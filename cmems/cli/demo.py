"""``cmems demo``."""

import time
from pathlib import Path

ABOUT = "Do the main job on phantom data: make it, prepare it, train CMEMS on one labelled slice, measure, draw."
EXAMPLE = "cmems demo"
CONFIG = "cmems::cmems/unet_phantom_cardiac"
RAW, PREPARED, WORK = Path("data/raw/phantom_cardiac"), Path("data/phantom_cardiac"), Path("work_dirs/demo")


def add_arguments(parser):
    """Add nothing: a demonstration has no options."""


def run(args):
    """Run the steps a user would run by hand, saying each."""
    from cmems.apis import test, train
    from cmems.apis.run_report import report_run
    from cmems.datasets.phantom import make_cardiac
    from cmems.datasets.prepare import prepare
    from cmems.registry import READERS

    began = time.monotonic()
    if not RAW.is_dir():
        say("cmems phantom cardiac", RAW)
        make_cardiac(RAW)
    say("cmems prepare acdc", RAW, PREPARED, "--size 64")
    prepare(READERS.get("acdc")(RAW), PREPARED, size=64)
    say("cmems train", CONFIG, "--work-dir", WORK, "--overwrite")
    train(CONFIG, work_dir=str(WORK), overwrite=True)
    say("cmems evaluate", CONFIG, WORK / "best.pth", "--show-dir", WORK / "panels")
    test(CONFIG, str(WORK / "best.pth"), show_dir=str(WORK / "panels"))
    say("cmems report", WORK)
    page, _ = report_run(str(WORK))
    print(f"\none labelled slice, {time.monotonic() - began:.0f} s; look at")
    print(f"  {page}  (in a browser: scores, curves, every case slice by slice)")
    for picture in (WORK / "curves.png", *sorted((WORK / "panels").glob("*.png"))[:2]):
        print(f"  {picture}")


def say(*words):
    """Print a command."""
    print("\n$", *words, flush=True)
