"""Run the tests where CMEMS may be installed: every Python, oldest and newest torch and numpy, the fork of MMEngine.

python tests/fuzz/matrix.py [tests …] [--cells NAME …] [--keep]

Each cell has a virtual environment of its own in ``$XDG_CACHE_HOME/cmems/matrix``, some 6 GB where torch brings CUDA,
so that it is removed after its tests unless --keep is given; the table says what it found there, and why a cell was not
run.
"""

import argparse
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

from prettytable import PrettyTable

REPO = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmems" / "matrix"
PYTHONS = ("3.10", "3.11", "3.12")
CELLS = {f"{python}-{age}": (python, age) for python in PYTHONS for age in ("oldest", "newest")}
CELLS["3.12-fork"] = ("3.12", "fork")
VERSIONS = "import torch, numpy, mmengine; print(torch.__version__, numpy.__version__, mmengine.__version__)"


def requirements(age):
    """Return what pip is asked for: ``setup.py``'s requirements; ``oldest`` pins torch and numpy to their floors."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(REPO / "setup.py"))
    wanted = setup.call_args.kwargs
    wanted = [*wanted["install_requires"], *wanted["extras_require"]["test"]]
    if age != "oldest":
        return wanted
    return [re.sub(r"^(torch|numpy)>=([\d.]+).*", r"\1==\2.*", requirement) for requirement in wanted]


def found(python):
    """Return the path of an interpreter of that version, or None."""
    places = [shutil.which(f"python{python}"), *Path.home().glob(f".pyenv/versions/{python}.*/bin/python")]
    for place in filter(None, places):
        said = subprocess.run([place, "-c", "import sys, venv, ensurepip; print(sys.version)"], capture_output=True)
        if said.returncode == 0 and said.stdout.decode().startswith(f"{python}."):
            return place
    return None


def made(cell, python, age):
    """Make a cell's environment where it is not there; return its interpreter, or the reason that there is none."""
    folder = CACHE / cell
    ours = folder / "bin" / "python"
    wanted = "\n".join(requirements(age))
    if (folder / "ready").is_file() and (folder / "ready").read_text() == wanted:
        return ours, None
    interpreter = found(python)
    if interpreter is None:
        return None, f"no Python {python} with venv is here"
    shutil.rmtree(folder, ignore_errors=True)
    pip = [ours, "-m", "pip", "-q", "--disable-pip-version-check"]
    steps = [[interpreter, "-m", "venv", folder], [*pip, "install", *wanted.split("\n")]]
    if age == "fork":  # mmcv-lite asks for MMEngine itself, which has the same modules
        steps += [[*pip, "uninstall", "-y", "mmengine"], [*pip, "install", "--no-deps", "onedl-mmengine"]]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            return None, f"not installed: {(done.stderr.strip() or 'no reason given').splitlines()[-1][:150]}"
    (folder / "ready").write_text(wanted)
    return ours, None


def main():
    """Run the cells and print the table; exit 1 where tests fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="as for pytest; default all")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--keep", action="store_true", help="keep the environments, for the next run")
    args = parser.parse_args()
    os.chdir(REPO)  # setup.py reads files beside it
    table, failed = PrettyTable(["cell", "torch", "numpy", "MMEngine", "tests"], align="l"), False
    CACHE.mkdir(parents=True, exist_ok=True)
    for cell in args.cells:
        python, reason = made(cell, *CELLS[cell])
        if python is None:
            table.add_row([cell, "", "", "", f"not run: {reason}"])
            continue
        versions = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout.split()
        env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        command = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, *args.tests], cwd=REPO, env=env, capture_output=True, text=True)
        (CACHE / f"{cell}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        lines = (done.stdout.strip() or done.stderr.strip() or "nothing said").splitlines()
        table.add_row([cell, *(versions + [""] * 3)[:3], lines[-1]])
        failed |= done.returncode != 0
        if not args.keep:
            shutil.rmtree(CACHE / cell)
        print(f"{cell}: {lines[-1]} ({CACHE / cell}.txt)", file=sys.stderr)
    print(table)
    sys.exit(failed)


if __name__ == "__main__":
    main()
