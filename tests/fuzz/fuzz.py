"""Feed spoilt files to the tools, and count what does not end well: python tests/fuzz/fuzz.py --count 500."""

import argparse
import itertools
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pool
import spoil
from prettytable import PrettyTable

from cmems.datasets.prepared import PreparedDataset, file_sha256
from cmems.errors import InputError
from tools import NIFTI, build, one_line, outcome

KINDS = ("nii", "nii.gz", "h5", "npz", "npy", "manifest", "splits", "checkpoint", "nrrd", "dicom", "png", "model")
FORMATS = dict(nrrd=spoil.spoil_nrrd, dicom=spoil.spoil_dicom, png=spoil.spoil_png)


def make(kind, number, seed, base, folder):
    """Make a spoilt file among good ones in ``folder``; return the tool's command line, and the file."""
    r = np.random.default_rng([seed, KINDS.index(kind), number])
    out, pick = folder / "out", spoil.pick

    def spoilt(path, act, *more):
        target = folder / path
        content = act((base / path).read_bytes(), r, *more)
        target.unlink()  # a link to the good one
        target.write_bytes(content)
        return target

    def copy(*names):
        for name in names:
            link = shutil.copytree if (base / name).is_dir() else os.link
            link(base / name, folder / name, **({"copy_function": os.link} if link is shutil.copytree else {}))

    if kind in ("nii", "nii.gz"):
        raw = "nifti" if kind == "nii" else "niftigz"
        copy(raw)
        name = f"{pick(r, ['images', 'images', 'labels'])}/patient00{r.integers(1, 5)}.{kind}"
        path = spoilt(f"{raw}/{name}", spoil.spoil_nifti if kind == "nii" else spoil.spoil_niftigz)
        if r.random() < 0.25 and name.startswith("images"):
            copy("tiny.py", "last.pth", "prepared")
            return ("predict", "tiny.py", "last.pth", f"{raw}/images", "out"), path
        extra = pick(r, [(), (), ("--spacing", "1.2", "--crop", "32"), ("--fill-nan",), ("--labels", "1,2,3")])
        return ("prepare_data", "nifti", raw, out, *NIFTI, *extra), path
    if kind in FORMATS:
        copy(kind)
        paths = [p for p in sorted((folder / kind).rglob("*")) if p.is_file() and p.suffix != ".nii"]
        path = spoilt(pick(r, paths).relative_to(folder), FORMATS[kind])
        if r.random() < 0.25 and path.parent.name != "labels":
            copy("model.pth")
            return ("predict", "model.pth", f"{kind}/images", "out"), path
        return ("prepare_data", "nifti", kind, out, *NIFTI), path
    if kind == "model":
        copy("model.pth", "nifti")
        path = spoilt("model.pth", spoil.spoil_model, folder)
        return ("predict", "model.pth", "nifti/images/patient001.nii", "out"), path
    if kind == "h5":
        layout = pick(r, ["ssl4mis", "ssl4mis", "transunet"])
        copy(layout)
        path = pick(r, sorted((folder / layout).rglob("*.h5"))).relative_to(folder)
        return ("prepare_data", layout, layout, out, "--size", 32, "--workers", 1), spoilt(path, spoil.spoil_h5, folder)
    if kind == "npz":
        copy("transunet")
        path = pick(r, sorted((folder / "transunet").rglob("*.npz"))).relative_to(folder)
        return ("prepare_data", "transunet", "transunet", out, "--size", 32, "--workers", 1), spoilt(
            path, spoil.spoil_npz
        )
    if kind == "splits":
        copy("nifti", "splits.json")
        path = spoilt("splits.json", spoil.spoil_json)
        fold = pick(r, [(), (), ("--fold", "0"), ("--fold", "1")])
        return ("prepare_data", "nifti", "nifti", out, *NIFTI[:-4], "--splits", path, *fold), path
    copy("tiny.py", "last.pth", "prepared")
    act = int(r.integers(8))
    if kind == "npy":
        name = pick(r, sorted((folder / "prepared").rglob("*.npy"))).relative_to(folder)
        path = spoilt(name, spoil.spoil_npy)
        if r.random() < 0.5:  # as one who means it would
            manifest = folder / "prepared" / "manifest.json"
            content = json.loads(manifest.read_text())
            said = content["files"][name.relative_to("prepared").as_posix()]
            said["sha256"] = file_sha256(path)
            said.pop("rows", None)
            manifest.unlink()
            manifest.write_text(json.dumps(content))
        act = act if act > 4 else act % 2
    elif kind == "manifest":
        path = spoilt("prepared/manifest.json", spoil.spoil_json)
    else:
        path = spoilt("last.pth", spoil.spoil_checkpoint, folder)
        if act < 3:
            (folder / "w").mkdir()
            shutil.copy(path, folder / "w" / "last.pth")
            return ("train", "tiny.py", "--work-dir", "w", "--resume"), path
        act = {3: 5, 4: 5, 5: 6, 6: 6, 7: 1}[act]
        if act == 1:
            return ("train", "tiny.py", "--work-dir", "w", "--cfg-options", "load_from=last.pth"), path
    if act < 4 and kind != "checkpoint" and not (kind == "npy" and act == 1):
        return ("prepare_data", "--check", "prepared"), path
    if act == 5:
        return ("test", "tiny.py", "last.pth", "--work-dir", "out"), path
    if act == 6:
        copy("nifti")
        return ("predict", "tiny.py", "last.pth", "nifti/images/patient001.nii", "out"), path
    return ("train", "tiny.py", "--work-dir", "w"), path


def attempt(job, seed, base, places):
    """Make a spoilt file, run its tool, and look at what is left."""
    kind, number = job
    folder = Path(tempfile.mkdtemp(dir=places))
    try:
        os.chdir(folder)
        words, _ = make(kind, number, seed, base, folder)
        before = set(os.listdir(folder)) | {"out", "w"}
        ended, text = outcome(*words)
        strays = set(os.listdir(folder)) - before
        if strays or set(os.listdir(places)) - {folder.name, *_others(places)}:
            ended, text = "stray file", ", ".join(strays) or "beside the folder"
        elif ended == "ok" and words[0] == "prepare_data" and words[1] != "--check":
            ended, text = _look(folder / "out")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return ended, (words[0] if words[1] != "--check" else "check", text, peak)
    finally:
        os.chdir(base)
        shutil.rmtree(folder, ignore_errors=True)


def _others(places):
    return [name for name in os.listdir(places) if name.startswith("tmp")]


def _look(out):
    """Check what a preparation left: whole, and numbers alone."""
    try:
        data = PreparedDataset(out)
        arrays = [data.volume(c)["image"] for s in ("val", "test") for c in data.cases(s)]
        arrays += [data.train_images()] if data.cases("train") else []
    except InputError as error:
        return "wrong file", str(error)[:200]
    odd = [a for a in arrays if not np.isfinite(a).all() or a.min() < 0 or a.max() > 1]
    return ("wrong file", "values beyond [0, 1]") if odd else ("ok", "")


def main():
    """Run and print the table; exit 1 where something did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="files of all kinds together")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first file of each kind")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no file after so many")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="run one file here and show its traceback")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        base, places = Path(folder, "base"), Path(folder, "places")
        base.mkdir()
        places.mkdir()
        made = list(pool.run([0], lambda job: (build(base), "")))
        assert made[0][1] is None, made
        if args.only:
            _show(args, base, places)
            return
        each = -(-args.count // len(args.kinds))
        jobs = [(kind, number) for number in range(args.start, args.start + each) for kind in args.kinds]
        sys.exit(_report(jobs, args, base, places))


def _show(args, base, places):
    kind, number = args.only.split(":")
    os.chdir(places)
    words, path = make(kind, int(number), args.seed, base, places)
    print(*words, "\n", path, path.stat().st_size, "bytes")
    from tools import tool

    print(tool(*words))


def _report(jobs, args, base, places):
    counts, texts, slowest, peak, began = {}, {}, {}, 0, time.monotonic()
    last, until = time.monotonic(), time.monotonic() + 60 * args.minutes
    jobs = itertools.takewhile(lambda job: time.monotonic() < until, jobs)
    for (kind, number), ended, found in pool.run(jobs, lambda job: attempt(job, args.seed, base, places), args.workers):
        where, text, memory = found if isinstance(found, tuple) else ("?", found, 0)
        now = time.monotonic()
        slowest[kind], last, peak = max(slowest.get(kind, 0), now - last), now, max(peak, memory)
        counts.setdefault(kind, Counter())[ended] += 1
        if ended not in ("ok", "refused"):
            print(f"{ended} in {where} by {kind}:{number}: {text}", file=sys.stderr, flush=True)
            texts.setdefault((ended, where, one_line(text)), []).append((f"{kind}:{number}", text))
    bad = ("traceback", "crash", "hang", "unreadable", "wrong file", "stray file")
    table = PrettyTable(["file", "tried", "accepted", "refused", *bad], align="r")
    for kind, found in counts.items():
        table.add_row([kind, found.total(), found["ok"], found["refused"], *(found[b] for b in bad)])
    print(table)
    total = sum(found.total() for found in counts.values())
    print(f"{total} files in {time.monotonic() - began:.0f} s, seed {args.seed}; peak memory of a process {peak} MB")
    for (ended, where, _), found in sorted(texts.items(), key=lambda item: -len(item[1])):
        print(f"{len(found)} x {ended} in {where}: {found[0][1]}  [{', '.join(name for name, _ in found[:4])}]")
    return int(bool(texts))


if __name__ == "__main__":
    main()
