"""What every reader offers: the cases of a raw folder, and their voxels."""

import difflib
import json
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from cmems.errors import InputError

SPLITS = ("train", "val", "test")


class Case(NamedTuple):
    """One volume of a raw folder.

    Attributes:
        name: Unique in the data set.
        split: ``train``, ``val`` or ``test``.
        images: The files its voxels come from: one volume, or its slices in order.
        labels: The files its labels come from; None when it has none.
    """

    name: str
    split: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None


class Volume(NamedTuple):
    """Voxels in (slice, row, column) order.

    Attributes:
        voxels: ``(D, H, W)``.
        spacing: (slice, row, column) in mm.
        affine: ``(4, 4)`` of the source, columns in its (x, y, z) order.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray


class Reader:
    """A raw layout.

    A subclass sets ``name``, ``classes`` and ``modality`` (``"mr"`` or ``"ct"``) and defines :meth:`find`.

    Args:
        root (str): The raw folder.
        val, test (sequence[str] | None): Cases or patients of these splits; None keeps the layout's own split.
        splits (str | None): A JSON file ``{"train": [...], "val": [...], "test": [...]}``; cases it omits are left out.

    Raises:
        InputError: The folder is missing.
    """

    name = ""
    classes = ()
    modality = "mr"
    expects = "a raw data set"

    def __init__(self, root, val=None, test=None, splits=None):
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder; expected {self.expects}")
        self.val, self.test = val, test
        self.split_file = None if splits is None else _read_splits(splits)

    def find(self):
        """Return ``(name, split, images, labels)`` rows and a list of problems."""
        raise TypeError(f"{type(self).__name__} does not define find")

    def cases(self):
        """List the cases, their splits settled.

        Raises:
            InputError: Every problem of the folder's layout, at once.
        """
        rows, problems = self.find()
        if not rows and not problems:
            problems = [f"{self.root}: no case found; expected {self.expects}"]
        named = {"val": self.val, "test": self.test}
        unmatched = {(s, n) for s, names in named.items() for n in names or () if n != "none"}
        cases = []
        for name, split, images, labels in sorted(rows):
            if self.split_file is not None:
                split = next((s for s, names in self.split_file.items() if _listed(name, names)), None)
            for wanted, names in named.items():
                if names is None:
                    continue
                if split == wanted:
                    split = "train"
                hits = [n for n in names if _listed(name, [n])]
                if hits:
                    split = wanted
                    unmatched -= {(wanted, n) for n in hits}
            if split is not None:
                cases.append(Case(name, split, images, labels))
        for split, name in sorted(unmatched):
            near = difflib.get_close_matches(name, [c.name for c in cases], n=3, cutoff=0.3)
            problems.append(f"--{split} {name}: no such case in {self.root}; near: {', '.join(near) or 'none'}")
        if problems:
            raise InputError(problems)
        return sorted(cases, key=lambda c: (SPLITS.index(c.split), c.name))

    def read_image(self, case):
        """Read a case's :class:`Volume`; raises InputError naming the file."""
        return read_nifti(case.images[0])

    def read_label(self, case):
        """Read a case's labels as a :class:`Volume` with class ids 0 … K-1; None without labels."""
        return None if case.labels is None else read_nifti(case.labels[0])


def read_nifti(path):
    """Read a 3-D NIfTI file.

    Raises:
        InputError: It is missing, truncated, not NIfTI, or not 3-D.
    """
    try:
        image = nib.load(path)
        voxels = np.asanyarray(image.dataobj)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: truncated or not a NIfTI file ({reason})") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3:
        raise InputError(f"{path}: expected a 3-D volume, got shape {voxels.shape}")
    spacing = tuple(float(s) for s in image.header.get_zooms()[2::-1])
    return Volume(voxels.transpose(2, 1, 0), spacing, np.asarray(image.affine, dtype=float))


def nifti_stem(path):
    """Return a file's name without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name)


def nifti_files(folder):
    """Return the NIfTI files of a folder by stem."""
    return {nifti_stem(p): p for p in sorted(Path(folder).glob("*.nii*")) if re.search(r"\.nii(\.gz)?$", p.name)}


def read_list(path):
    """Read a text file of one name per line; empty when it is absent."""
    path = Path(path)
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def _listed(name, names):
    """Tell whether a case is named, by itself, by its patient or by the digits of its number."""
    return any(name == n or name.startswith(f"{n}_") or (n.isdigit() and name.endswith(n.zfill(4))) for n in names)


def _read_splits(path):
    try:
        splits = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--splits {path}: expected a JSON file of train, val and test lists ({error})") from error
    unknown = sorted(set(splits) - set(SPLITS)) if isinstance(splits, dict) else [type(splits).__name__]
    if unknown:
        raise InputError(f"--splits {path}: expected the keys train, val, test; got {', '.join(unknown)}")
    return splits
