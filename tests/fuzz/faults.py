"""Let every write of a short run fail, one after the other, as a disk would: python tests/fuzz/faults.py."""

import argparse
import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

SHIM = "CMEMS_FAULTS"  # names the library where it is loaded already
HERE = Path(__file__).parent

if SHIM in os.environ:
    import nibabel as nib
    import numpy as np
    import pool
    from PIL import Image
    from prettytable import PrettyTable

    from cmems.comparison import compare
    from cmems.datasets.prepare import check
    from cmems.datasets.prepared import PreparedDataset
    from cmems.engine.checkpoint import read_checkpoint
    from tools import NIFTI, build, one_line, outcome

ERRORS = ("ENOSPC", "EIO", "EACCES", "EFBIG")
COMMANDS = {
    "prepare": ("prepare_data", "nifti", "nifti", "job/out"),
    "train": ("train", "tiny.py", "--work-dir", "job/w"),
    "resume": ("train", "tiny.py", "--work-dir", "job/w", "--resume"),
    "test": ("test", "tiny.py", "last.pth", "--work-dir", "job/w", "--out", "job/out", "--show-dir", "job/panels"),
    "predict": ("predict", "tiny.py", "last.pth", "nifti/images", "job/out"),
    "compare": ("compare", "suite.py", "--seeds", "0", "--work-dir", "job/compare"),
}
SUITE = """
title, datasets = "Tiny", ["any"]
rows = [dict(label="tiny", config="tiny.py"), dict(label="two", config="two.py")]
"""


def attempt(job, base, library):
    """Run a command whose n-th write fails; return how it ended, and the call that failed."""
    command, n, name, stay = job
    os.chdir(base)
    folder = base / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if command == "resume":
        (folder / "w").mkdir()
        shutil.copy(base / "last.pth", folder / "w")
    words = [*COMMANDS[command], *(NIFTI if command == "prepare" else ())]
    library.arm(str(folder).encode(), n, getattr(errno, name), stay)
    ended, text = outcome(*words)
    total, call = library.disarm(), library.failed().decode()
    wrong = left(folder, finished=ended == "ok" and not call)
    if wrong:
        return "wrong file", (total, call, wrong)
    if ended == "refused" and str(folder.relative_to(base)) not in text:
        return "no path", (total, call, text)
    return ended, (total, call, text)


def left(folder, finished):
    """Return what is wrong with the files under final names, or left behind under others; None where all are whole."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.name.endswith(".part"):
                return f"{path}: left behind"
            if path.suffix == ".pth":
                read_checkpoint(path)
            elif path.name.endswith(".nii.gz"):
                np.asarray(nib.load(path).dataobj)
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.name == "manifest.json" and ".partial" not in path.parts:
                problems = check(path.parent)
                PreparedDataset(path.parent)
                if problems:
                    return problems[0]
            elif path.suffix == ".json" and path.name != "scalars.json":
                json.loads(path.read_text())
            elif path.suffix == ".csv" and not path.read_text().endswith("\n"):
                return f"{path}: cut"
        except Exception as error:
            return f"{path}: {error!r}"[:300]
    return None


def _tool(words, log, threads, lock, stop):
    """Stand for the tools that compare starts, which have rows of their own here."""
    with open(log, "ab") as out:
        out.write(b"done\n")
    if words[0] == "evaluate":
        folder = Path(words[2]).parent / "test_test"
        shutil.copytree("tested", folder, dirs_exist_ok=True)
    return None


def main():
    """Run and print the table; exit 1 where something did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--errors", nargs="+", choices=ERRORS, default=ERRORS)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only each K-th write")
    args = parser.parse_args()
    if SHIM not in os.environ:
        sys.exit(_with_shim())
    warnings.simplefilter("ignore")
    library = ctypes.CDLL(os.environ[SHIM])
    library.failed.restype, library.disarm.restype, library.arm.argtypes = (
        ctypes.c_char_p, ctypes.c_long, (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int))  # fmt: skip
    compare.run_command = _tool
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        base = Path(folder)
        made = list(pool.run([0], lambda job: (_build(base), "")))
        assert made[0][1] is None, made
        sys.exit(_report(args, base, library))


def _build(base):
    build(base)
    (base / "suite.py").write_text(SUITE)
    (base / "two.py").write_text((base / "tiny.py").read_text() + "train_cfg = dict(max_iters=1)\n")
    code, said = outcome("test", "tiny.py", "last.pth", "--work-dir", "t", "--out", "tested")
    assert code == "ok", said


def _report(args, base, library):
    bad = ("wrong file", "no path", "traceback", "crash", "hang", "unreadable")
    table, texts = PrettyTable(["command", "writes", "tried", "went on", "refused", *bad], align="r"), {}
    for command in args.commands:

        def act(job):
            return attempt(job, base, library)

        ((_, ended, found),) = pool.run([(command, 0, "EIO", 0)], act)
        assert ended == "ok", (command, ended, found)
        total, counts = found[0], Counter()
        ways = [(name, stay) for name in args.errors for stay in (0, 1)]
        jobs = [(command, n, name, stay) for n in range(1, total + 1, args.every) for name, stay in ways]
        for job, ended, found in pool.run(jobs, act):
            counts[ended] += 1
            if ended not in ("ok", "refused"):
                call, text = found[1:] if isinstance(found, tuple) else ("", found)
                texts.setdefault((command, ended, one_line(text), one_line(call)), []).append((job, call, text))
        table.add_row([command, total, len(jobs), counts["ok"], counts["refused"], *(counts[b] for b in bad)])
    print(table)
    for (command, ended, *_), found in sorted(texts.items(), key=lambda item: -len(item[1])):
        job, call, text = found[0]
        print(f"{len(found)} x {ended} in {command}, write {job[1]} {job[2]}{' on' * job[3]} ({call}): {text}")
    return int(bool(texts))


def _with_shim():
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "faults.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
        environment = {**os.environ, SHIM: str(library), "LD_PRELOAD": str(library)}
        return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


if __name__ == "__main__":
    main()
