"""The layouts that hold training slices as single files: SSL4MIS's h5 and TransUNet's npz."""

import re
import zipfile
from collections import defaultdict

import h5py
import numpy as np

from cmems.datasets.readers.acdc import ACDCReader
from cmems.datasets.readers.base import SPLITS, Reader, Volume, read_list
from cmems.datasets.readers.synapse import SynapseReader
from cmems.errors import InputError
from cmems.registry import READERS


class _SliceReader(Reader):
    """Training cases stacked from slice files, the others read whole; spacing is not in the files.

    Args:
        root, val, test, splits: As every reader.
        spacing (tuple[float, float, float] | None): (slice, row, column) in mm. Default: 1 mm each.
    """

    def __init__(self, root, val=None, test=None, splits=None, spacing=None):
        super().__init__(root, val, test, splits)
        self.spacing = tuple(spacing or (1.0, 1.0, 1.0))

    def read_image(self, case):
        """Read the image of slices or of a volume."""
        return self._volume(case.images, "image")

    def read_label(self, case):
        """Read the labels from the same files."""
        return None if case.labels is None else self._volume(case.labels, "label")

    def _volume(self, paths, key):
        parts = [_read(path, key) for path in paths]
        for path, part in zip(paths, parts, strict=True):
            if part.shape != parts[0].shape:
                raise InputError(
                    f"{path}: expected {key} shape {parts[0].shape}, as in {paths[0].name}, got {part.shape}"
                )
        voxels = parts[0] if parts[0].ndim == 3 else np.stack(parts)
        return Volume(voxels, self.spacing, np.diag([*self.spacing[::-1], 1.0]))


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
        slices = defaultdict(dict)
        for folder in ("data/slices", "ACDC_training_slices", "slices"):
            for path in (self.root / folder).glob("*_slice_*.h5"):
                case, number = re.fullmatch(r"(.+)_slice_(\d+)\.h5", path.name).groups()
                slices[case][int(number)] = path
        volumes = {}
        for folder in ("data", "ACDC_training_volumes", "."):
            volumes.update({p.stem: p for p in (self.root / folder).glob("patient*.h5") if "_slice_" not in p.name})
        listed = {c: s for s in SPLITS for c in read_list(self.root / f"{s}.list")}
        rows = []
        for case in sorted(set(slices) | set(volumes)):
            split = listed.get(case, "train" if case in slices else "val")
            if split == "train" and case in slices:
                files = tuple(slices[case][n] for n in sorted(slices[case]))
            else:
                files = (volumes[case],) if case in volumes else tuple(slices[case][n] for n in sorted(slices[case]))
            rows.append((case, split, files, files if _holds(files[0], "label") else None))
        return rows, []


@READERS.register_module(name="transunet")
class TransUNetReader(_SliceReader):
    """``train_npz/caseNNNN_sliceSSS.npz`` for training and ``test_vol_h5/caseNNNN.npy.h5`` for testing (Synapse)."""

    name = "synapse"
    classes = SynapseReader.classes
    modality = "unit"
    expects = "train_npz/caseNNNN_sliceSSS.npz and test_vol_h5/caseNNNN.npy.h5"

    def find(self):
        """Return a case per volume; the four validation cases of the raw layout validate here too."""
        slices = defaultdict(dict)
        for path in (self.root / "train_npz").glob("*_slice*.npz"):
            case, number = re.fullmatch(r"(.+)_slice(\d+)\.npz", path.name).groups()
            slices[case][int(number)] = path
        rows = []
        for case, files in slices.items():
            ordered = tuple(files[n] for n in sorted(files))
            split = "val" if case.removeprefix("case") in ("0005", "0021", "0030", "0037") else "train"
            rows.append((case, split, ordered, ordered if _holds(ordered[0], "label") else None))
        for path in (self.root / "test_vol_h5").glob("*.h5"):
            rows.append((path.name.split(".")[0], "test", (path,), (path,) if _holds(path, "label") else None))
        return rows, []


def _open(path):
    try:
        return np.load(path) if path.suffix == ".npz" else h5py.File(path, "r")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: truncated or not {path.suffix[1:]} ({str(error)[:100]})") from error


def _holds(path, key):
    try:
        with _open(path) as arrays:
            return key in arrays
    except InputError:
        return False


def _read(path, key):
    with _open(path) as arrays:
        if key not in arrays:
            raise InputError(f"{path}: expected the key '{key}', got {', '.join(arrays) or 'none'}")
        try:
            return np.asarray(arrays[key])
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: truncated ({str(error)[:100]})") from error
