"""What DSC and HD95 of a whole volume cost: ours against medpy's, and MONAI's and surface-distance's if installed."""

import argparse
import importlib
import json
import os
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from medpy.metric import binary
from prettytable import PrettyTable
from scipy.ndimage import gaussian_filter1d

from cmems.evaluation import PRESETS, score_volume

PACKAGES = ("numpy", "scipy", "MedPy", "monai", "surface-distance")
STRICT = PRESETS["strict"]


def main():
    """Time every method on every case, check that they agree, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of every side, one repeat")
    parser.add_argument("--repeats", type=int, default=3, help="of all methods in turn; medians are reported")
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    shape = (25, 128, 128) if args.quick else (100, 512, 512)
    repeats = 1 if args.quick else args.repeats
    methods = {"ours": ours, "medpy": medpy, **optional_methods()}
    report = dict(
        shape=shape,
        repeats=repeats,
        cpus=os.cpu_count(),
        usable_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        processor=platform.processor() or platform.machine(),
        python=platform.python_version(),
        versions={p: found for p in PACKAGES if (found := installed(p))},
        cases=[],
    )
    table = PrettyTable(["case", "voxels", "method", "seconds", "ratio to ours", "largest difference"])
    for name, classes, spacing in (
        ("1 organ, voxels", 1, (1.0, 1.0, 1.0)),
        ("1 organ, mm", 1, (3.0, 0.8, 0.8)),
        ("8 organs, voxels", 8, (1.0, 1.0, 1.0)),
        ("8 organs, mm", 8, (3.0, 0.8, 0.8)),
    ):
        case = measure(methods, *volumes(shape, classes), classes, spacing, repeats)
        report["cases"].append(dict(name=name, **case))
        for method, found in case["methods"].items():
            table.add_row(
                [
                    name,
                    case["voxels"],
                    method,
                    f"{found['seconds']:.3f}",
                    f"{found['ratio']:.1f}",
                    f"{found['off']:.0e}",
                ]
            )
    shown = ", ".join(f"{p} {v}" for p, v in report["versions"].items())
    print(f"{' x '.join(map(str, shape))}, {report['usable_cpus']} of {report['cpus']} CPUs, {shown}")
    print(table)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1))


def volumes(shape, classes, seed=0):
    """Return a reference and a prediction of organs side by side: bumpy ellipsoids, and those a little off."""
    random = np.random.default_rng(seed)
    depth, height, width = shape
    columns = min(classes, 4)
    rows = classes // columns
    cell = (depth, height / rows, width / columns)
    # One organ of a full-size volume has about a million voxels.
    radii = np.minimum(np.array(cell) * 0.42, np.array(shape) * (0.36, 0.16, 0.16))
    z, y, x = np.ogrid[:depth, :height, :width]
    bumps = random.normal(size=shape).astype(np.float32)
    for axis, n in enumerate(shape):
        bumps = gaussian_filter1d(bumps, n / 40, axis=axis, mode="wrap")
    bumps *= 0.08 / bumps.std()
    shift = np.maximum(1, np.round(np.array(shape) * (0.01, 0.006, 0.004))).astype(int)
    labels = []
    for moved in (np.zeros(3, dtype=int), shift):
        label = np.zeros(shape, dtype=np.uint8)
        for k in range(classes):
            row, column = divmod(k, columns)
            centre = np.array([depth / 2, (row + 0.5) * cell[1], (column + 0.5) * cell[2]]) + moved
            radius = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True))
            label[radius < 1 + bumps] = k + 1
        labels.append(label)
        bumps = np.roll(bumps, 3, axis=1)
    return labels


def measure(methods, reference, prediction, classes, spacing, repeats):
    """Time the methods in turn, so that a busy machine slows all; the values must agree with medpy's."""
    seconds, values = {m: [] for m in methods}, {}
    for _ in range(repeats):
        for name, method in methods.items():
            begin = time.perf_counter()
            values[name] = method(reference, prediction, classes, spacing)
            seconds[name].append(time.perf_counter() - begin)
    found = {}
    for name in methods:
        off = np.abs(np.array(values[name]) - values["medpy"]).max()
        # surface-distance weighs borders by their area, which is another definition.
        assert off < 1e-6 or name not in ("ours", "medpy"), f"{name} differs from medpy by {off}"
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True))
        found[name] = dict(
            seconds=statistics.median(seconds[name]), all_seconds=seconds[name], ratio=ratio, off=float(off)
        )
    return dict(
        voxels=int((reference > 0).sum()),
        spacing=spacing,
        dsc=[float(v[0]) for v in values["ours"]],
        hd95=[float(v[1]) for v in values["ours"]],
        methods=found,
    )


def ours(reference, prediction, classes, spacing):
    """Return (DSC, HD95) per class."""
    rows = score_volume(reference, {"model": prediction}, classes + 1, spacing, dsc=STRICT, hd95=STRICT)
    return [(r["dsc"], r["hd95"]) for r in rows]


def medpy(reference, prediction, classes, spacing):
    """Return (DSC, HD95) per class."""
    found = []
    for k in range(1, classes + 1):
        a, b = prediction == k, reference == k
        found.append((binary.dc(a, b), binary.hd95(a, b, voxelspacing=spacing)))
    return found


def optional_methods():
    """Return the methods whose packages are installed."""
    found = {}
    if installed("monai"):
        found["monai"] = monai
    if installed("surface-distance"):
        found["surface-distance"] = surface_distance
    return found


def monai(reference, prediction, classes, spacing):
    """Return (DSC, HD95) per class; MONAI's HD95 is the larger of the two directions' percentiles."""
    import torch

    metrics = importlib.import_module("monai.metrics")
    a, b = (
        torch.stack([torch.from_numpy(m == k) for k in range(1, classes + 1)])[None] for m in (prediction, reference)
    )
    distance = metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    dice = metrics.compute_dice(a, b, include_background=True)
    return list(zip(dice[0].tolist(), distance[0].tolist(), strict=True))


def surface_distance(reference, prediction, classes, spacing):
    """Return (DSC, HD95) per class; its border elements lie between voxels and are weighed by their area."""
    package = importlib.import_module("surface_distance")
    found = []
    for k in range(1, classes + 1):
        a, b = reference == k, prediction == k
        distances = package.compute_surface_distances(a, b, spacing)
        found.append((package.compute_dice_coefficient(a, b), package.compute_robust_hausdorff(distances, 95)))
    return found


def installed(package):
    """Return a package's version, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
