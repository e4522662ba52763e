"""Shapes, textures and files that both phantoms are made of."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from cmems.errors import InputError


def ellipse(x, y, center, axes, angle=0.0, bumps=None):
    """Return how deep points lie in an ellipse: 1 at its centre, 0 on its edge, negative outside.

    Args:
        x, y (np.ndarray): Coordinates in mm, equal shapes.
        center, axes (tuple[float, float]): Centre and semi-axes in mm.
        angle (float): Rotation in radians.
        bumps (sequence[tuple[float, float]] | None): Amplitude and phase of waves 2, 3, … around the edge.
    """
    dx, dy = x - center[0], y - center[1]
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / axes[0]
    v = (-np.sin(angle) * dx + np.cos(angle) * dy) / axes[1]
    radius = np.hypot(u, v)
    if bumps is not None:
        theta = np.arctan2(v, u)
        radius = radius / (1 + sum(a * np.cos(k * theta + p) for k, (a, p) in enumerate(bumps, 2)))
    return 1 - radius


def draw_bumps(random, amplitude, count=3):
    """Draw ``bumps`` for :func:`ellipse`."""
    return [(random.uniform(0, amplitude) / (i + 1), random.uniform(0, 2 * np.pi)) for i in range(count)]


def smooth_noise(random, shape, sigma):
    """Draw Gaussian noise smoothed over ``sigma`` pixels, of standard deviation 1."""
    noise = gaussian_filter(random.standard_normal(shape), sigma)
    return noise / max(noise.std(), 1e-9)


def save_nifti(path, voxels, spacing):
    """Write ``(D, H, W)`` voxels with (slice, row, column) spacing in mm as NIfTI axes (x, y, z)."""
    affine = np.diag([*spacing[::-1], 1.0])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine), path)


@contextmanager
def whole_folder(root):
    """Give a folder to fill that takes its final name only once all of it is written.

    Raises:
        InputError: ``root`` exists and is not empty.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: expected a new or an empty folder, but it holds files")
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    if root.exists():
        root.rmdir()
    os.replace(part, root)


def write_splits(root, splits):
    """Write ``splits/{train,val,test}.txt``, one name per line."""
    (root / "splits").mkdir()
    for split, names in splits.items():
        (root / "splits" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))


def check_counts(train, val, test):
    """Raise InputError unless there is at least one training case and no count is negative."""
    if train < 1 or val < 0 or test < 0:
        raise InputError(f"--train {train} --val {val} --test {test}: expected at least 1, 0 and 0 cases")
