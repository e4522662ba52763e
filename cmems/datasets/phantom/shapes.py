"""Shapes, textures and files that both phantoms are made of."""

import os
import shutil
import tempfile
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
        near = radius < 1 + sum(a for a, _ in bumps)  # farther points are outside whatever the waves
        theta = np.arctan2(v[near], u[near])
        radius[near] /= 1 + sum(a * np.cos(k * theta + p) for k, (a, p) in enumerate(bumps, 2))
    return 1 - radius


def draw_bumps(random, amplitude, count=3):
    """Draw ``bumps`` for :func:`ellipse`."""
    return [(random.uniform(0, amplitude) / (i + 1), random.uniform(0, 2 * np.pi)) for i in range(count)]


def smooth_noise(random, shape, sigma):
    """Draw Gaussian noise smoothed over ``sigma`` pixels, of standard deviation 1."""
    noise = gaussian_filter(random.standard_normal(shape), sigma)
    return noise / max(noise.std(), 1e-9)


def save_nifti(path, voxels, spacing):
    """Write ``(D, H, W)`` voxels with (slice, row, column) spacing in mm as NIfTI axes (x, y, z).

    Slices are drawn as radiologists see them: rows run to posterior, columns to the patient's left.
    """
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine), path)


@contextmanager
def whole_folder(root):
    """Give ``(root, part)``: ``part``, a folder to fill, becomes ``root`` only once all of it is written.

    Raises:
        InputError: ``root`` is a file, a folder that holds files, or cannot be made.
    """
    root = Path(root)
    try:
        if root.is_dir() and any(root.iterdir()):
            raise InputError(f"{root}: expected a new or an empty folder, but it holds files")
        if root.exists() and not root.is_dir():
            raise InputError(f"{root}: expected a new or an empty folder, but it is a file")
        root.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".part", dir=root.parent))
        part.chmod(0o755)  # mkdtemp's folders are their owner's alone
    except OSError as error:
        raise InputError(f"{root}: expected a folder that can be made: {error.strerror}") from error
    try:
        yield root, part
        os.replace(part, root)  # an empty folder gives way
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_splits(root, splits):
    """Write ``splits/{train,val,test}.txt``, one name per line."""
    (root / "splits").mkdir()
    for split, names in splits.items():
        (root / "splits" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))


def check_counts(train, val, test):
    """Raise InputError unless there is at least one training case and no count is negative."""
    if train < 1 or val < 0 or test < 0:
        raise InputError(f"--train {train} --val {val} --test {test}: expected at least 1, 0 and 0 cases")


def check_key(seed, number=0):
    """Raise InputError unless a seed and a case's number are whole and not negative."""
    for name, value in (("seed", seed), ("number", number)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise InputError(f"{name}: expected a whole number of at least 0, got {value}")
