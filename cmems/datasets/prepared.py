"""A prepared data set on disk, as ``tools/prepare_data.py`` writes it."""

import difflib
import json
from pathlib import Path

import numpy as np

from cmems.errors import InputError
from cmems.resize import Frame

FORMAT, VERSION = "cmems-prepared", 1
MANIFEST = "manifest.json"
UNLABELED = 255


class PreparedDataset:
    """Read access to a prepared data set.

    Args:
        root (str): Its folder.

    Attributes:
        name (str): Data set.
        size (int): Side S of the training slices, pixels.
        frame (Frame): How slices of the scans become such squares.
        classes (tuple[str]): Foreground classes; label k is the k-th.
        num_classes (int): K, background included.
        manifest (dict): All that is known of the data; docs/data.md describes it.

    Raises:
        InputError: There is no complete prepared data set.
    """

    def __init__(self, root):
        self.root = Path(root)
        path = self.root / MANIFEST
        if not path.is_file():
            raise InputError(f"{self.root}: {_why_not(self.root)}; make one with tools/prepare_data.py")
        try:
            self.manifest = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error})") from error
        found = (self.manifest.get("format"), self.manifest.get("version"))
        if found != (FORMAT, VERSION):
            raise InputError(f"{path}: expected format {FORMAT} version {VERSION}, got {found[0]} version {found[1]}")
        self.name = self.manifest["dataset"]
        self.size = self.manifest["size"]
        self.frame = Frame(self.size, self.manifest.get("pixel"))
        self.classes = tuple(self.manifest["classes"])
        self.num_classes = len(self.classes) + 1

    def cases(self, split):
        """List the cases of ``train``, ``val`` or ``test``; ``valtest`` is the last two, on which UniMatch reports."""
        if split == "valtest":
            return self.cases("val") + self.cases("test")
        if split not in self.manifest["splits"]:
            raise InputError(f"{self.root}: split: expected one of {', '.join(self.manifest['splits'])}, got {split!r}")
        return list(self.manifest["splits"][split])

    def case(self, name):
        """Return a case's entry of the manifest; raises InputError naming the cases near it."""
        if name not in self.manifest["cases"]:
            near = difflib.get_close_matches(name, self.manifest["cases"], n=3, cutoff=0.3)
            raise InputError(f"{self.root}: no case {name!r}; near: {', '.join(near) or 'none'}")
        return self.manifest["cases"][name]

    def train_images(self):
        """Map ``(N, S, S)`` float16 in [0, 1]: the slices of every training case."""
        return self._map("train_images.npy")

    def train_labels(self):
        """Map ``(N, S, S)`` uint8, 255 where a case has no label."""
        if not (self.root / "train_labels.npy").is_file():
            raise InputError(f"{self.root}: no training case is labelled")
        return self._map("train_labels.npy")

    def rows(self, case):
        """Return the range of a training case's rows in the training arrays."""
        entry = self.case(case)
        if entry["split"] != "train":
            raise InputError(f"{self.root}: case {case} is in split '{entry['split']}'; expected a training case")
        return range(*entry["slices"])

    def row(self, case, slice):
        """Return the row of a slice in the training arrays; the index counts from 0 along the source's last axis."""
        rows = self.rows(case)
        if not isinstance(slice, int) or not 0 <= slice < len(rows):
            raise InputError(f"{self.root}: case {case} slice {slice!r}: expected an integer from 0 to {len(rows) - 1}")
        return rows[slice]

    def volume(self, case):
        """Read a validation or test volume.

        Returns:
            dict: ``case``; ``image`` ``(D, H, W)`` float16 in [0, 1] on the source's grid; ``label`` ``(D, H, W)``
            uint8 or None; ``spacing`` (slice, row, column) in mm; ``affine`` ``(4, 4)``.
        """
        entry = self.case(case)
        labels = self.root / "volumes" / f"{case}_label.npy"
        return dict(
            case=case,
            image=np.array(self._map(f"volumes/{case}_image.npy")),
            label=np.load(labels) if entry["labelled"] else None,
            spacing=tuple(entry["spacing"]),
            affine=np.asarray(entry["affine"]),
        )

    def eligible_exemplars(self, limit=None):
        """List training slices that hold every class as (case, slice), those with most foreground first."""
        labels, found = self.train_labels(), []
        for case in self.cases("train"):
            start, stop = self.case(case)["slices"]
            for index, label in enumerate(labels[start:stop]):
                counts = np.bincount(label.ravel(), minlength=self.num_classes)[1 : self.num_classes]
                if (counts > 0).all():
                    found.append((int(counts.min()), case, index))
        ordered = [(case, index) for _, case, index in sorted(found, key=lambda f: -f[0])]
        return ordered[:limit]

    def _map(self, name):
        try:
            return np.load(self.root / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.root / name}: missing or damaged ({error}); check with --check") from error


def _why_not(root):
    if not root.is_dir():
        return "no such folder; expected a prepared data set"
    if (root / ".partial").is_dir():
        return "its preparation was interrupted; run the same command again to go on"
    return f"not a prepared data set: it has no {MANIFEST}"
