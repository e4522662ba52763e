"""Time and peak memory of `cmems predict` on one large scan and on many small ones, killed in between.

Scans are cut or stretched from those of SCANS; nothing of their labels is read. The second folder's command is killed
(-9) after a while and given again, as a user would; every mask and every row of trust.csv must then be there, and
the last line says how many masks were made again: those whose rows were not written yet.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from prettytable import PrettyTable
from scipy import ndimage


def main():
    """Make the scans, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="one file, of `cmems publish`")
    parser.add_argument("scans", help="a folder of NIfTI scans")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 100), help="of the large scan")
    parser.add_argument("--number", type=int, default=1000, help="of small scans")
    parser.add_argument("--kill", type=float, default=60, help="seconds")
    args = parser.parse_args()
    table = PrettyTable(["scans", "s", "peak memory, GB"], align="r")
    with tempfile.TemporaryDirectory() as folder:
        large, many = Path(folder, "large"), Path(folder, "many")
        sources = sorted(Path(args.scans).glob("*.nii*"))
        _stretch(sources[0], args.shape, large)
        table.add_row(["1 of " + "x".join(map(str, args.shape)), *predict(args.model, large, large / "masks")])
        many.mkdir()
        for k in range(args.number):
            source = sources[k % len(sources)]
            shutil.copy(source, many / f"scan{k:04d}{''.join(source.suffixes[-2:])}")
        out = many / "masks"
        table.add_row([f"the first of {args.number}, killed", *predict(args.model, many, out, args.kill)])
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
        table.add_row([f"the others, {len(before)} being there", *predict(args.model, many, out)])
        with open(out / "trust.csv", encoding="utf-8") as file:
            rows = len({row["scan"] for row in csv.DictReader(file)})
        again = sum(path.stat().st_mtime_ns != stamp for path, stamp in before.items())
        print(table)
        print(f"masks {len(list(out.glob('*.nii.gz')))}, scans in trust.csv {rows}, made again {again}")


def predict(model, scans, out, kill=None):
    """Run the command, killed after some seconds if asked; return its seconds and its peak memory in GB."""
    began = time.perf_counter()
    code = (
        "import resource, subprocess, sys\n"
        "process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)\n"
        "try:\n    process.wait(float(sys.argv[1]) or None)\n"
        "except subprocess.TimeoutExpired:\n    process.kill()\n    process.wait()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-m", "cmems", "predict", model, str(scans), str(out)]
    said = subprocess.run([sys.executable, "-c", code, str(kill or 0), *command], capture_output=True, check=True)
    return f"{time.perf_counter() - began:.0f}", f"{int(said.stdout) / 2**20:.1f}"


def _stretch(source, shape, folder):
    """Write a scan at another number of voxels, as large in mm, to a folder."""
    image = nib.load(source)
    voxels = np.asarray(image.dataobj)
    factors = [new / old for new, old in zip(shape, voxels.shape, strict=True)]
    spacing = [size / factor for size, factor in zip(image.header.get_zooms()[:3], factors, strict=True)]
    folder.mkdir()
    stretched = ndimage.zoom(voxels.astype(np.float32), factors, order=1)
    nib.save(nib.Nifti1Image(stretched.astype(np.int16), np.diag([*spacing, 1])), folder / "large.nii.gz")


if __name__ == "__main__":
    main()
