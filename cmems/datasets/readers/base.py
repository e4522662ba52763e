"""What every reader offers: the cases of a raw folder, and their voxels."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmems.datasets.names import each_once, name_problem, near, patient_of
from cmems.datasets.prepared import AXES, file_sha256
from cmems.datasets.readers.files import MAPS, file_parts, nifti_stem
from cmems.datasets.readers.geometry import LEFT, is_to_turn, known_axes, lay_on, turned
from cmems.datasets.readers.nifti import nifti_grid, read_nifti
from cmems.errors import InputError
from cmems.files import need_file
from cmems.labels import UNKNOWN

SPLITS = ("train", "val", "test")
_MARKED = "voxels marked as unknown, by 255 or as ignored, are neither learned from nor measured on"
_TURNED = "orientations differ; turned to "
_STORED = "stored as "
_UNTOLD = "its header tells no axes; it is taken to lie as the other scans"


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


class Reader:
    """A raw layout.

    A subclass sets ``name``, ``classes`` and ``modality`` (``"mr"`` or ``"ct"``) and defines :meth:`find`.

    Args:
        root (str): The raw folder.
        val, test (sequence[str] | None): Cases or patients of these splits; None keeps the layout's own split.
        splits (str | None): A JSON file ``{"train": [...], "val": [...], "test": [...]}``, nnU-Net's
            ``splits_final.json`` or a Decathlon's ``dataset.json``; cases it omits are left out.
        fold (int | None): Which of several folds of ``splits``.

    Attributes:
        axes (str | None): Axes that scans are turned to as they are read; see :meth:`settle_axes`.
        usual (str | None): Those of most scans whose headers tell.

    Raises:
        InputError: The folder is missing, or ``splits`` is no such file.
    """

    name = ""
    classes = ()
    modality = "mr"
    expects = "a raw data set"

    def __init__(self, root, val=None, test=None, splits=None, fold=None):
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder; expected {self.expects}")
        if fold is not None and splits is None:
            raise InputError("--fold: expected --splits FILE with it")
        self.val, self.test = val, test
        self.split_file = None if splits is None else _read_splits(splits, fold)
        self.axes = self.usual = None

    def find(self):
        """Return ``(name, split, images, labels)`` rows and a list of problems."""
        raise TypeError(f"{type(self).__name__} does not define find")

    def settings(self):
        """Return all that decides what is read of given files, as JSON holds it."""
        return dict(
            dataset=self.name, classes=list(self.classes), modality=self.modality, axes=self.axes,
            layout=type(self).__name__)  # fmt: skip

    def reading(self):
        """Return how scans from elsewhere are read as these were: ``channel``, ``fill_nan``."""
        return {}

    def cases(self):
        """List the cases, their splits settled.

        Raises:
            InputError: Every problem of the folder's layout, at once.
        """
        rows, problems = self.find()
        if not rows and not problems:
            problems = [f"{self.root}: no case found; expected {self.expects}"]
        splits = {name: split for name, split, _, _ in rows}
        alike = defaultdict(list)
        for name, *_ in rows:
            alike[name.casefold()].append(name)
        for names in alike.values():
            if len(names) > 1:
                what = (
                    f"are called {names[0]}"
                    if len(set(names)) == 1
                    else f"differ in capitals alone: {', '.join(names)}"
                )
                problems.append(f"{self.root}: {len(names)} cases {what}; expected one")
        problems += [f"{self.root}: {problem}" for problem in map(name_problem, splits) if problem]
        if self.split_file is not None:
            splits = self._assign(dict.fromkeys(splits), self.split_file, "--splits ", problems)
        named = {s: n for s, n in (("val", self.val), ("test", self.test)) if n is not None}
        problems += [
            f"--{split}: expected cases, or none alone, got {','.join(names)}"
            for split, names in named.items()
            if "none" in names and len(names) > 1
        ]
        # A split that is named anew gives its cases back to training.
        splits = {name: "train" if split in named else split for name, split in splits.items()}
        named = {s: [n for n in names if n != "none"] for s, names in named.items()}
        splits = self._assign(splits, named, "--", problems)
        if problems:
            raise InputError(problems)
        cases = [Case(name, splits[name], _whole(i), n and _whole(n)) for name, _, i, n in rows if splits[name]]
        if not cases:
            raise InputError(f"{self.root}: --splits leaves no case; there are {', '.join(sorted(splits)[:5])}")
        return sorted(cases, key=lambda c: (SPLITS.index(c.split), c.name))

    def _assign(self, splits, named, option, problems):
        """Return ``splits`` with the cases that are named in ``named``'s lists; complain of what names none or two."""
        splits, taken = dict(splits), {}
        for split, names in named.items():
            for name in names:
                hits = matches(name, splits)
                if len(hits) > 1 and nifti_stem(name).isdecimal() and len(set(map(patient_of, hits))) > 1:
                    some = ", ".join(sorted(hits)[:3]) + ", …" * (len(hits) > 3)
                    problems.append(f"{option}{split} {name}: {len(hits)} cases have that number, {some}; name one")
                    continue
                if not hits:
                    problems.append(f"{option}{split} {name}: no such case in {self.root}; {near(name, splits)}")
                for hit in hits:
                    if hit in taken:
                        problems.append(f"{option}{split} {name}: case {hit} is named in {taken[hit]} already")
                    splits[hit] = taken[hit] = split
        return splits

    def settle_axes(self, cases):
        """Turn all scans to one orientation, where their headers tell of several: the commonest, of these the one
        whose slices are the thickest.

        Returns:
            dict[str, int]: How many cases are stored in each known orientation.
        """
        stored = [found for found in map(self.stored_axes, cases) if found[0]]
        counts, thickness = Counter(codes for codes, _ in stored), dict(stored)
        self.usual = max(sorted(counts), key=lambda codes: (counts[codes], thickness[codes]), default=None)
        self.axes = self.usual if len(counts) > 1 else None
        return dict(counts)

    def stored_axes(self, case):
        """Return the axes that a case's header states, as ``LPS``, or None, and slice over pixel spacing."""
        return None, 1.0

    def read(self, case):
        """Read a case.

        Returns:
            tuple[Volume, Volume | None]: The image, and labels with class ids 0 … K-1 on the image's grid.

        Raises:
            InputError: Everything that is wrong with its files.
        """
        image, problems = None, []
        try:
            image = self.read_image(case)
        except InputError as error:
            problems += error.problems
        try:
            label = self.read_label(case)
        except InputError as error:
            problems += [p for p in error.problems if p not in problems]
        if problems:
            raise InputError(problems)
        if label is not None:
            label = whole_labels(case.labels[0], lay_on(label, image, case.labels[0], case.images[0]))
            if count := int((label.voxels == UNKNOWN).sum()):
                label = label._replace(notes=(*label.notes, (_MARKED, f"{count:,} of {label.voxels.size:,}")))
        stored = known_axes(image)
        if self.usual and not stored:
            image = image._replace(notes=(*image.notes, (_UNTOLD, self.usual)))
        if is_to_turn(image, self.axes):
            note = (f"{_TURNED}{self.axes}", f"{_STORED}{stored}")
            if label is not None:
                label = turned(label._replace(frames=image.frames), self.axes)
            image = turned(image, self.axes)._replace(notes=(*image.notes, note))
        elif self.axes and stored and stored != self.axes:
            image = image._replace(notes=(*image.notes, (LEFT.format(self.axes), f"{_STORED}{stored}")))
        return image, label

    def sources(self, paths):
        """Return where a case's files are, relative to the root, with their SHA-256, as the manifest tells it."""
        return [dict(path=str(path.relative_to(self.root)), sha256=file_sha256(path)) for path in paths]

    def read_image(self, case):
        """Read a case's :class:`Volume`; raises InputError naming the file."""
        return read_nifti(case.images[0])

    def read_label(self, case):
        """Read a case's labels as a :class:`Volume` with class ids 0 … K-1; None without labels."""
        return None if case.labels is None else read_nifti(case.labels[0], several=MAPS)


class NiftiReader(Reader):
    """A layout of NIfTI files."""

    def stored_axes(self, case):
        """Return what the image's header states."""
        try:
            grid = self.read_grid(case)
        except InputError:  # reading it will say so, beside what is wrong with the others
            return None, 1.0
        return known_axes(grid), grid.spacing[0] / max(grid.spacing[1:])

    def read_grid(self, case):
        """Read the header of a case's image, as a :class:`Volume` whose voxels mean nothing."""
        return nifti_grid(case.images[0])


def stored_as(notes):
    """Return the axes of the files of a case, as ``LPS``, where its notes say that it was turned; else None."""
    details = (detail.removeprefix(_STORED) for sentence, detail in notes if sentence.startswith(_TURNED))
    return next(filter(AXES.fullmatch, details), None)


def whole_labels(path, label):
    """Round labels that were stored through a float or a slope; those farther than 0.001 from an integer are refused.

    Raises:
        InputError: A label is no integer.
    """
    if label.voxels.dtype.kind in "iub":
        return label
    whole = np.rint(label.voxels)
    off = ~(np.abs(label.voxels - whole) <= 1e-3)  # NaN too
    if off.any():
        raise InputError(f"{path}: expected integer labels, got {label.voxels[off][0]:.9g}")
    return label._replace(voxels=whole)


def read_list(path):
    """Read a text file of one name per line; empty when it is absent."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a text file of names ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def split_of(where, lists):
    """Return the split of each name in a layout's own lists, and a problem for each that is listed twice.

    Args:
        where (Path): Of the lists, for messages.
        lists (dict[str, list[str]]): Names by split.
    """
    counts = Counter(name for names in lists.values() for name in names)
    problems = [f"{where}: {name} is listed {count} times" for name, count in counts.items() if count > 1]
    return {name: split for split, names in lists.items() for name in names}, problems


def matches(name, cases):
    """Return the cases that a name means: the case itself, else a patient's cases, else those of that number.

    A number is the case's or, before ACDC's ``_frameFF``, the patient's.
    """
    name = nifti_stem(name)
    if name in cases:
        return [name]
    if patient := [case for case in cases if case.startswith(f"{name}_")]:
        return patient
    numbers = {case: re.search(r"(\d+)$", patient_of(case)) for case in cases}
    return [c for c, number in numbers.items() if number and name.isdecimal() and int(number[1]) == int(name)]


def _read_splits(path, fold):
    where = f"--splits {path}"
    need_file(path)
    try:
        splits = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected a JSON file of train, val and test lists ({error})") from error
    if isinstance(splits, list):  # nnU-Net's splits_final.json
        if fold is None and len(splits) > 1:
            raise InputError(f"{where}: {len(splits)} folds; choose with --fold 0 to {len(splits) - 1}")
        if not 0 <= (fold or 0) < len(splits):
            raise InputError(f"{where}: --fold {fold}: expected 0 to {len(splits) - 1}")
        splits = splits[fold or 0]
    elif fold is not None:
        raise InputError(f"{where}: --fold {fold}: the file holds no list of folds")
    training = splits.get("training") if isinstance(splits, dict) else None
    if isinstance(training, list) and all(isinstance(entry, dict) for entry in training):  # a Decathlon's dataset.json
        lists = [key for key, value in splits.items() if value and isinstance(value, list)]
        if more := sorted(set(lists) - {"training", "test"}):
            raise InputError(f"{where}: of a dataset.json the list training alone is read; got {', '.join(more)} too")
        images = [entry.get("image") for entry in training]
        splits = {"train": [Path(i).name if isinstance(i, str) else i for i in images]}
    unknown = sorted(map(str, set(splits) - set(SPLITS))) if isinstance(splits, dict) else [type(splits).__name__]
    if unknown:
        raise InputError(f"{where}: expected the keys train, val, test; got {', '.join(unknown)}")
    for split, names in splits.items():
        odd = [n for n in names if not isinstance(n, str)] if isinstance(names, list) else [names]
        if odd:
            raise InputError(f"{where}: {split}: expected a list of case names, got {odd[0]!r}")
    return splits


def _whole(paths):
    """Return the files of a scan with those that belong to them, so that all of them are known when one is replaced."""
    return tuple(part for path in paths for part in file_parts(path))
