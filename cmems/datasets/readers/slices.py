"""The layouts that hold training slices as single files: SSL4MIS's h5 and TransUNet's npz."""

import re
import zipfile
from collections import defaultdict

import h5py
import numpy as np

from cmems.datasets.readers.acdc import ACDCReader
from cmems.datasets.readers.base import SPLITS, Reader, read_list, split_of
from cmems.datasets.readers.files import check_size, reading
from cmems.datasets.readers.nifti import Volume
from cmems.datasets.readers.synapse import SynapseReader
from cmems.errors import InputError
from cmems.registry import READERS

_LOST = "numbers of slices are missing; those around them count as neighbours"


class _SliceReader(Reader):
    """Training cases stacked from slice files, the others read whole; spacing is not in the files.

    Args:
        root, val, test, splits, fold: As every reader.
        spacing (tuple[float, float, float] | None): (slice, row, column) in mm. Default: 1 mm each.
    """

    def __init__(self, root, val=None, test=None, splits=None, fold=None, spacing=None):
        super().__init__(root, val, test, splits, fold)
        self.spacing = tuple(float(s) for s in spacing or (1, 1, 1))
        if not all(0 < s < np.inf for s in self.spacing):
            raise InputError(f"--voxel: expected three positive numbers of mm, got {self.spacing}")

    def settings(self):
        """Return what every reader does, and the spacing."""
        return dict(super().settings(), spacing=self.spacing)

    def read_image(self, case):
        """Read the image of slices or of a volume."""
        return self._volume(case.images, "image")

    def read_label(self, case):
        """Read the labels from the same files."""
        return None if case.labels is None else self._volume(case.labels, "label")

    def _volume(self, paths, key):
        parts = [_read(path, key) for path in paths]
        if len(parts) > 1 or re.search(r"_?slice_?\d+\.\w+$", paths[0].name):
            parts = [_slice(path, key, part) for path, part in zip(paths, parts, strict=True)]
        for path, part in zip(paths, parts, strict=True):
            if part.shape != parts[0].shape:
                raise InputError(
                    f"{path}: expected {key} shape {parts[0].shape}, as in {paths[0].name}, got {part.shape}"
                )
        voxels = parts[0] if len(parts) == 1 and parts[0].ndim == 3 else np.stack(parts)
        numbers = [int(re.search(r"(\d+)\.\w+$", path.name)[1]) for path in paths if len(paths) > 1]
        lost = sorted(set(range(min(numbers, default=0), max(numbers, default=0))) - set(numbers))
        notes = ((_LOST, f"without {', '.join(map(str, lost[:5]))}{', …' * (len(lost) > 5)}"),) if lost else ()
        return Volume(voxels, self.spacing, np.diag([*self.spacing[::-1], 1.0]), notes=notes)


@READERS.register_module(name="ssl4mis")
class SSL4MISReader(_SliceReader):
    """``data/slices/patientNNN_frameFF_slice_S.h5`` for training and ``data/patientNNN_frameFF.h5`` volumes (ACDC).

    A case in ``val.list`` or ``test.list`` is of that split; of the others, those with slices train, the rest validate.
    WSL4MIS's folders (``ACDC_training_slices``, ``ACDC_training_volumes``) do too; scribbles are not read.
    """

    name = "acdc"
    classes = ACDCReader.classes
    expects = "data/slices/patientNNN_frameFF_slice_S.h5 and data/patientNNN_frameFF.h5"

    def find(self):
        """Return a case per volume."""
        slices, problems = defaultdict(dict), []
        for folder in ("data/slices", "ACDC_training_slices", "slices"):
            _collect(self.root / folder, r"(.+)_slice_(\d+)\.h5", slices, problems)
        volumes = {}
        for folder in ("data", "ACDC_training_volumes", "."):
            volumes.update({p.stem: p for p in _h5(self.root / folder) if "_slice_" not in p.name})
        lists = {s: [c.removesuffix(".h5") for c in read_list(self.root / f"{s}.list")] for s in SPLITS}
        listed, twice = split_of(self.root, lists)
        rows, problems = [], problems + twice
        for case in sorted(set(listed) - set(slices) - set(volumes)):
            problems.append(f"{self.root / listed[case]}.list: {case} is listed, but there is no such file")
        for case in sorted(set(slices) | set(volumes)):
            split = listed.get(case, "train" if case in slices else "val")
            if split == "train" and case in slices:
                files = tuple(slices[case][n] for n in sorted(slices[case]))
            else:
                files = (volumes[case],) if case in volumes else tuple(slices[case][n] for n in sorted(slices[case]))
            rows.append((case, split, files, files if _labelled(files) else None))
        return rows, problems


@READERS.register_module(name="transunet")
class TransUNetReader(_SliceReader):
    """``train_npz/caseNNNN_sliceSSS.npz`` for training and ``test_vol_h5/caseNNNN.npy.h5`` for testing (Synapse)."""

    name = "synapse"
    classes = SynapseReader.classes
    modality = "unit"
    expects = "train_npz/caseNNNN_sliceSSS.npz and test_vol_h5/caseNNNN.npy.h5"

    def find(self):
        """Return a case per volume; the four validation cases of the raw layout validate here too."""
        slices, problems = defaultdict(dict), []
        _collect(self.root / "train_npz", r"(.+)_slice(\d+)\.npz", slices, problems)
        rows = []
        for case, files in slices.items():
            ordered = tuple(files[n] for n in sorted(files))
            split = "val" if case.removeprefix("case") in ("0005", "0021", "0030", "0037") else "train"
            rows.append((case, split, ordered, ordered if _labelled(ordered) else None))
        for path in _h5(self.root / "test_vol_h5"):
            rows.append((path.name.split(".")[0], "test", (path,), (path,) if _labelled([path]) else None))
        return rows, problems


def _h5(folder):
    """Return the h5 files of a folder, in any capitals."""
    return [path for path in sorted(folder.glob("[!.]*")) if path.suffix.lower() == ".h5"]


def _labelled(files):
    """Tell whether one of a case's files has labels; reading it then names those that have none."""
    return any("label" in _keys(path) for path in files)


def _collect(folder, pattern, slices, problems):
    """Add a folder's slice files to ``slices[case][number]``; the others that are not hidden are problems."""
    for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        if match and int(match[2]) not in slices[match[1]]:
            slices[match[1]][int(match[2])] = path
        elif path.suffix.lower() in (".h5", ".npz", ".npy"):
            problems.append(f"{path}: expected CASE, slice and another number than its neighbours' in the name")


def _slice(path, key, array):
    """Return one slice ``(H, W)``; converters also write it as ``(1, H, W)`` or ``(H, W, 1)``."""
    for axis in (0, -1):
        if array.ndim == 3 and array.shape[axis] == 1:
            return np.squeeze(array, axis)
    if array.ndim != 2:
        raise InputError(f"{path}: {key}: expected one slice (H, W), got shape {array.shape}")
    return array


def _keys(path):
    """Return the names of a file's arrays; none where it cannot be read, which reading the image then says."""
    try:
        with reading(path, path.suffix[1:]):
            if path.suffix.lower() == ".npz":
                with zipfile.ZipFile(path) as archive:
                    return [name.removesuffix(".npy") for name in archive.namelist()]
            with h5py.File(path, "r") as file:
                return list(file)
    except InputError:
        return []


def _read(path, key):
    """Read ``(H, W)`` or ``(D, H, W)`` real numbers, their size known to fit."""
    with reading(path, path.suffix[1:]):
        array = (_read_npz if path.suffix.lower() == ".npz" else _read_h5)(path, key)
    return array


def _read_h5(path, key):
    with h5py.File(path, "r") as file:
        link = file.get(key, getlink=True)
        if link is None:
            raise InputError(f"{path}: expected the key '{key}', got {_listing(file)}")
        if not isinstance(link, h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
            raise InputError(f"{path}: {key}: expected an array in this file, got a link or a group")
        array = file[key]
        if array.external or array.is_virtual:
            raise InputError(f"{path}: {key}: expected an array in this file, got one that lies in others")
        _check_kind(path, key, array.shape, array.dtype)
        check_size(path, array.shape, array.dtype.itemsize, array.id.get_storage_size(), array.chunks is not None)
        return np.asarray(array[()])


def _read_npz(path, key):
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if key not in names:
            raise InputError(f"{path}: expected the key '{key}', got {_listing(names)}")
        with archive.open(names[key]) as handle:
            version = np.lib.format.read_magic(handle)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = header[version](handle)
        _check_kind(path, key, shape, dtype)
        check_size(path, shape, dtype.itemsize, archive.getinfo(names[key]).compress_size, True)
        with archive.open(names[key]) as handle:
            return np.lib.format.read_array(handle, allow_pickle=False)


def _listing(keys):
    return ascii(", ".join(keys))[1:-1][:100] or "none"


def _check_kind(path, key, shape, dtype):
    if dtype.kind not in "biuf":
        raise InputError(f"{path}: {key}: expected real numbers, got {dtype}")
    if len(shape) not in (2, 3):
        raise InputError(f"{path}: {key}: expected a slice (H, W) or a volume (D, H, W), got shape {shape}")
