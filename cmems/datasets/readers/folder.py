"""A plain folder of scans, and of the masks that a viewer saved."""

import difflib
import hashlib
import re
from collections import Counter

import numpy as np

from cmems.datasets.names import SHEET
from cmems.datasets.readers.base import NiftiReader, whole_labels
from cmems.datasets.readers.files import PICTURE, SCAN, files_below
from cmems.datasets.readers.geometry import lay_on
from cmems.datasets.readers.label_names import plain_name, read_label_names
from cmems.datasets.readers.scans import (
    KINDS,
    choose_channel,
    is_segmentation,
    mask_ending,
    read_grid,
    read_mask,
    read_scan,
    scan_files,
    scan_modality,
    scan_parts,
    scan_stem,
)
from cmems.errors import InputError, printable, warn_once
from cmems.labels import UNKNOWN
from cmems.registry import READERS

UNPAINTED = ("auto", "unknown", "background")
_SUFFIX = re.compile(r"[ ._-]?(seg|segmentation|label|labels|labelmap|mask)$", re.IGNORECASE)
_STRAY = 3  # masks of no scan's name whose place is looked for
_DEFAULT = re.compile(r"label \d+", re.IGNORECASE)  # what ITK-SNAP calls labels that nobody named
_IGNORE = "ignore"  # what nnU-Net calls voxels that nobody annotated
_UNNAMED = re.compile(r"segment[ _](\d+)", re.IGNORECASE)
_DROPPED = "labels that --labels or --classes do not name become background"
_OTHER = "the header names another modality (--modality ct is for CT in HU)"
_IN_ORDER = "segments without names are the classes in their order"
_STRANGE = "labelled by a mask of another name, because it lies on this scan's grid alone"
_EMPTY = "nothing is painted; it counts as unlabelled (--unpainted background: as all background)"
_SPARSE = (
    "painted on few slices: the others are unknown, neither learned from nor measured on (--unpainted background: "
    "they are background)"
)


@READERS.register_module(name=["nifti", "folder"])
class NiftiFolderReader(NiftiReader):
    """``images/NAME.nii.gz`` and, where there are labels, ``labels/NAME.nii.gz``; nnU-Net's ``imagesTr`` do too.

    Scans and masks are NIfTI, NRRD, PNG or TIFF, or DICOM; without ``images`` scans lie in the folder itself. An image
    may carry nnU-Net's channel, ``NAME_0000.nii.gz``, where its label is ``NAME.nii.gz``. A mask may carry what viewers
    add, ``NAME-label.nrrd``; one of another name belongs to the only scan on whose grid it lies.

    Args:
        root, val, test, splits, fold: As every reader.
        classes (sequence[str]): Foreground classes; label k is the k-th. Default: those of ``names``, or of the
            segments that masks name.
        modality (str): ``mr`` or ``ct``.
        labels (sequence[int] | None): The number of each class in the files; other numbers become background. Default:
            1 … K, or as ``names`` or the masks say.
        channel (int | None): Which channel of each case to read, of files ``NAME_0000``, ``NAME_0001`` … or of volumes
            of four axes.
        fill_nan (bool): Read NaN as the volume's smallest value.
        names (str | None): A file that names the numbers in the masks; see :func:`read_label_names`. What is called
            ``ignore`` is no class, but voxels that nobody annotated.
        unpainted (str): What slices without a label are: ``unknown``; ``background``; or ``auto``: unknown where a
            tenth of the slices or fewer are painted, or no two neighbours.

    Raises:
        InputError: The folder is missing, or an option is wrong.
    """

    name = "nifti"
    expects = f"images/NAME and labels/NAME, {KINDS} (labels only where there are any)"

    def __init__(self, root, val=None, test=None, splits=None, fold=None, classes=(), modality="mr", labels=None,
                 channel=None, fill_nan=False, names=None, unpainted="auto"):  # fmt: skip
        super().__init__(root, val, test, splits, fold)
        if names is not None and labels is not None:
            raise InputError("--names and --labels both give the numbers of the classes; expected one of them")
        self.channel, self.fill_nan, self.unpainted = channel, fill_nan, unpainted
        self.placed = set()  # masks that belong to a scan of another name
        self.given = "--labels" if names is None else f"--names {names}"
        known = {} if names is None else read_label_names(names)
        ignored = (
            [] if _IGNORE in map(plain_name, classes) else [n for n, k in known.items() if plain_name(k) == _IGNORE]
        )
        known = {number: name for number, name in known.items() if number not in ignored}
        self.ignored = ignored
        known = known if classes else self._used(known)
        classes = tuple(classes) or tuple(known.values()) or self._segments()
        if not classes:
            raise InputError(
                "--classes: a folder of scans needs its foreground classes, e.g. --classes RV,Myo,LV, or --names FILE"
            )
        alike = Counter(map(plain_name, classes))
        if twice := [name for name in classes if alike[plain_name(name)] > 1]:
            raise InputError(
                f"--classes: expected different names, got {' and '.join(twice)}, which are compared as one"
            )
        if modality not in ("mr", "ct"):
            raise InputError(f"--modality: expected mr or ct, got {modality!r}")
        if labels is not None and (len(labels) != len(classes) or len({0, *labels}) <= len(labels)):
            raise InputError(f"--labels: expected {len(classes)} different numbers other than 0, got {labels}")
        if odd := [number for number in labels or () if abs(number) >= 1 << 31]:
            raise InputError(f"--labels: expected numbers that masks hold, below 2147483648, got {odd[0]}")
        if channel is not None and channel < 0:
            raise InputError(f"--channel: expected 0 or more, got {channel}")
        if unpainted not in UNPAINTED:
            raise InputError(f"--unpainted: expected {', '.join(UNPAINTED)}, got {unpainted!r}")
        self.classes, self.modality = classes, modality
        self.labels = _numbers(classes, known, self.given) if known else labels
        self.name = printable(self.root.resolve().name)  # which may be no Unicode

    def settings(self):
        """Return what every reader does, and the options of this one."""
        ignored = dict(ignored=self.ignored) if self.ignored else {}
        return dict(super().settings(), labels=self.labels, unpainted=self.unpainted, **ignored, **self.reading())

    def reading(self):
        """Return the channel and whether NaN are filled."""
        return dict(channel=self.channel, fill_nan=self.fill_nan)

    def find(self):
        """Return a case per image."""
        images, labels = self._folders()
        scans, problems = scan_files(images)
        self._say_aside(images, labels, scans)
        if images == labels:  # beside the scans: segmentations, and what carries the name of another file
            masks = {scan_stem(path): path for path in _segmentations(images)}
            masks |= {name: path for name, path in scans.items() if owner_of(name, scans)}
            scans = {name: path for name, path in scans.items() if name not in masks or path != masks[name]}
        else:
            masks, more = scan_files(labels, masks=True) if labels.is_dir() else ({}, [])
            if SHEET not in (path.name for path in scans.values()):  # of `cmems pick`, which wrote the masks there
                masks = {name: path for name, path in masks.items() if path.name != SHEET}
            problems = more + problems
        labelled = {*masks, *(_SUFFIX.sub("", name) for name in masks)}
        scans, more = choose_channel(scans, self.channel, labelled, images.name == "imagesTr")
        problems += more
        stray = [name for name in masks if name not in scans and not owner_of(name, scans)]
        grids = _grids(scans) if 0 < len(stray) <= _STRAY else {}
        owned = {}
        for name, path in masks.items():
            owner, fits = name if name in scans else owner_of(name, scans), []
            if not owner and grids:
                try:
                    fits = _lies_on(path, scans, grids)
                except InputError as error:
                    problems += error.problems
                    continue
            if len(fits) > 1:
                some = ", ".join(fits[:3]) + " …" * (len(fits) > 3)
                problems.append(f"{path}: lies on the grid of {len(fits)} scans: {some}; name it as one of them")
                continue
            if fits:
                (owner,) = fits
                self.placed.add(path)
            if not owner:
                near = ", ".join(difflib.get_close_matches(name, scans, n=3, cutoff=0.3) or sorted(scans)[:3])
                problems.append(f"{path}: a label without its image in {images}; call it as its scan: {near or 'none'}")
            elif owner in owned:
                problems.append(f"{path}: a second label of {owner}, beside {owned[owner].name}; keep one of them")
            else:
                owned[owner] = path
        rows = []
        for name, path in scans.items():
            label = owned.get(name)
            try:
                rows.append((name, "train", scan_parts(path), (label,) if label else None))
            except InputError as error:
                problems += error.problems
        return rows, problems

    def _say_aside(self, images, labels, scans):
        """Say which files beside the folders that are read look like scans, or which folders hold such."""
        if images == self.root / ".":  # below it they are problems
            return
        beside = [path for path in self.root.iterdir() if path.is_file() and not path.name.startswith(".")]
        below = files_below(self.root, [images.resolve(), labels.resolve()])
        pictures = any(PICTURE.search(path.name) for path in scans.values())  # else those are screenshots
        found = {
            path.relative_to(self.root).parts[0]: None
            for path in (*beside, *below)
            if SCAN.search(path.name) and (pictures or not PICTURE.search(path.name))
        }
        if found:
            some = ", ".join(sorted(found)[:4]) + ", …" * (len(found) > 4)
            warn_once(f"{self.root}: {some}: passed over; scans are read from {images.name}, masks from {labels.name}")

    def _folders(self):
        """Return the folder of the scans and that of the masks."""
        pairs = (("images", "labels"), ("imagesTr", "labelsTr"))
        found = next((pair for pair in pairs if (self.root / pair[0]).is_dir()), (".", "labels"))
        images, labels = (self.root / folder for folder in found)
        return images, images if found[0] == "." and not labels.is_dir() else labels

    def _used(self, known):
        """Return the names of numbers without those that ITK-SNAP gives by itself and no mask uses, and say so."""
        idle = {number: name for number, name in known.items() if _DEFAULT.fullmatch(name)}
        for *_, label in self.find()[0] if idle else ():
            try:
                seen = np.unique(whole_labels(label[0], read_mask(label[0])).voxels).tolist() if label else ()
            except InputError:  # reading it will say so
                continue
            idle = {number: name for number, name in idle.items() if number not in seen}
        if not 0 < len(idle) < len(known):
            return known
        warn_once(f"{self.given}: {', '.join(idle.values())}: no mask uses them; they are no classes")
        return {number: name for number, name in known.items() if number not in idle}

    def _segments(self):
        """Return the names of the segments that the masks name, those of the first first."""
        images, labels = self._folders()
        found = {}
        for path in _segmentations(labels):
            try:
                names = read_grid(path).names or {}
            except InputError:  # reading it will say so
                continue
            found |= {plain_name(name): name for name in names.values() if plain_name(name) not in found}
        return tuple(found.values())

    def sources(self, paths):
        """Return what every reader does; of a series its folder, and one digest: names of its files may identify."""
        if mask_ending(paths[0]) != ".dcm":
            return super().sources(paths)
        each = "".join(entry["sha256"] for entry in super().sources(paths))
        folder = paths[0].parent.relative_to(self.root)
        return [dict(path=str(folder), files=len(paths), sha256=hashlib.sha256(each.encode()).hexdigest())]

    def read_grid(self, case):
        """Read the header of a case's scan."""
        return read_grid(case.images[0])

    def read(self, case):
        """Read as every reader, and mark slices that nobody painted."""
        image, label = super().read(case)
        if case.labels and case.labels[0] in self.placed:
            image = image._replace(notes=(*image.notes, (_STRANGE, case.labels[0].name)))
        if label is None or self.unpainted == "background":
            return image, label
        turned = next((f", {said}" for said, _ in image.notes if said.startswith("orientations differ")), "")
        label = _unknown(case.labels[0], label, self.unpainted == "auto", turned)
        return (image._replace(notes=(*image.notes, (_EMPTY, ""))), None) if label is None else (image, label)

    def read_image(self, case):
        """Read the channel that is asked for, NaN filled where that is."""
        volume = read_scan(case.images[0], self.channel)
        said = scan_modality(case.images[0])
        if said and (said == "CT") != (self.modality == "ct"):
            volume = volume._replace(notes=(*volume.notes, (_OTHER, f"{said}, scaled as {self.modality}")))
        return filled(volume) if self.fill_nan else volume

    def read_label(self, case):
        """Read the labels, each class under its own number."""
        if case.labels is None:
            return None
        path = case.labels[0]
        volume = read_mask(path)
        numbers, order = self._segment_numbers(path, volume) if volume.names else (self.labels, ())
        if numbers is None:
            return volume
        voxels = whole_labels(path, volume).voxels
        mapped = np.zeros(voxels.shape, dtype=np.int16)
        for k, number in enumerate(numbers, 1):
            mapped[voxels == number] = k
        if UNKNOWN not in {*numbers, *(volume.names or {})}:  # of nobody's painting
            mapped[voxels == UNKNOWN] = UNKNOWN
        if not volume.names:
            mapped[np.isin(voxels, self.ignored)] = UNKNOWN
        dropped = [
            (volume.names or {}).get(v, f"{v:g}")
            for v in np.setdiff1d(voxels[mapped != UNKNOWN], [0, *numbers]).tolist()
        ]
        notes = ((_DROPPED, ", ".join(dropped[:5])),) if dropped else ()
        return volume._replace(voxels=mapped, notes=(*volume.notes, *order, *notes))

    def _segment_numbers(self, path, volume):
        """Return the number of each class in a mask that names its segments, and notes.

        What ``labels`` or ``names`` gave counts; else the segments' names, or, where they have none, their order.

        Raises:
            InputError: No segment is called as a class, or one that is has another number than was given.
        """
        named = _named(self.classes, volume.names, path)
        if self.labels and not volume.counted:
            for name, number in zip(self.classes, self.labels, strict=True):
                if named.get(name, number) != number:
                    raise InputError(
                        f"{path}: {self.given} gives {name} the number {number}, but the segment called so has "
                        f"{named[name]}; leave the option out, or rename the segments"
                    )
            if not {*self.labels} & {*volume.names}:
                there = ", ".join(map(str, volume.names))
                raise InputError(f"{path}: {self.given}: expected segments with numbers of the classes, got {there}")
            return self.labels, ()
        if self.labels and not named:
            raise InputError(
                f"{path}: {self.given} cannot tell its segments apart, which share numbers in the file; call them as "
                f"the classes: {', '.join(self.classes)}"
            )
        unnamed = {number: _UNNAMED.fullmatch(name) for number, name in volume.names.items()}
        if not named and all(unnamed.values()) and len(unnamed) == len(self.classes):
            return sorted(unnamed, key=lambda number: int(unnamed[number][1])), ((_IN_ORDER, ", ".join(self.classes)),)
        return _numbers(self.classes, volume.names, str(path), some=True), ()


def _named(classes, names, where):
    """Return the number of each class that is among the names of numbers; refuse names that mean one class."""
    found = {}
    for cls in classes:
        hits = [number for number, name in names.items() if plain_name(name) == plain_name(cls)]
        if len(hits) > 1:
            both = " and ".join(names[number] for number in hits)
            raise InputError(f"{where}: expected one label called {cls}, got {both}; rename or merge them")
        if hits:
            found[cls] = next(iter(hits))
    return found


def _numbers(classes, names, where, some=False):
    """Return the number of each class, by the names of numbers; -1 of those that have none, where ``some`` do."""
    found = _named(classes, names, where)
    missing = [name for name in classes if name not in found]
    if missing and (not some or len(missing) == len(classes)):
        raise InputError(f"{where}: expected a label called {missing[0]}, got {', '.join(names.values())}")
    return [found.get(name, -1) for name in classes]


def _segmentations(folder):
    """Return the files of a folder that are segmentations by themselves: ``.seg.nrrd``, and DICOM's."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "."] if folder.is_dir() else []
    return [p for p in files if p.name.lower().endswith(".seg.nrrd") or is_segmentation(p)]


def owner_of(name, scans):
    """Return the scan whose name a mask carries before what viewers add, or None."""
    stem = _SUFFIX.sub("", name)
    return stem if stem != name and stem in scans else None


def _grids(scans):
    """Return the headers of the scans that say where they lie."""
    found = {}
    for name, path in scans.items():
        try:
            grid = read_grid(path)
        except InputError:  # reading it will say so
            continue
        if grid.frames:
            found[name] = grid
    return found


def _lies_on(path, scans, grids):
    """Return the scans on whose grid a mask lies, so far as their headers tell."""
    mask, fits = read_mask(path), []
    for name, grid in grids.items() if mask.frames else ():
        try:
            lay_on(mask, grid, path, scans[name])
        except InputError:
            continue
        fits.append(name)
    return fits


def _unknown(path, label, automatic, turned=""):
    """Return labels ``(D, H, W)`` whose unpainted slices are 255; None where nothing is painted.

    Args:
        path (Path): Named in the error.
        label (Volume): Labels on the scan's grid, as its slices lie.
        automatic (bool): Only where few slices are painted: a tenth, or no two neighbours.
        turned (str): What to say of a scan that was turned, for the error.

    Raises:
        InputError: One slice is painted, but across the scan's own.
    """
    voxels = label.voxels
    if automatic and (voxels == UNKNOWN).any():  # someone marked them
        return label
    painted = (voxels > 0).any(axis=(1, 2))
    count, depth = int(painted.sum()), len(voxels)
    if not count:
        return None
    across = [axis for axis in (1, 2) if (voxels > 0).any(axis=(0, 3 - axis)).sum() == 1 < voxels.shape[axis]]
    if automatic and len(across) == 1 and count > 2:
        raise InputError(
            f"{path}: painted on one {('row', 'column')[across[0] - 1]} of each of {count} slices, across them; "
            f"expected a slice along the scan's last axis{turned}"
        )
    if automatic and count > depth / 10 and (painted[1:] & painted[:-1]).any() or count == depth:
        return label
    voxels = voxels.copy()
    voxels[~painted] = UNKNOWN
    return label._replace(voxels=voxels, notes=(*label.notes, (_SPARSE, f"{count} of {depth}")))


def filled(volume):
    """Return a :class:`Volume` whose NaN have its smallest value."""
    if volume.voxels.dtype.kind != "f" or not np.isnan(volume.voxels).any() or np.isnan(volume.voxels).all():
        return volume
    return volume._replace(
        voxels=np.nan_to_num(volume.voxels, nan=np.nanmin(volume.voxels), posinf=np.inf, neginf=-np.inf)
    )
