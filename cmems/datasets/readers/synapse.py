"""BTCV's raw layout, as the Synapse multi-organ task uses it."""

import numpy as np

from cmems.datasets.readers.base import SPLITS, NiftiReader, read_list, split_of, whole_labels
from cmems.datasets.readers.files import nifti_files
from cmems.errors import InputError
from cmems.labels import UNKNOWN
from cmems.registry import READERS

# TransUNet's test cases. Of its 18 training cases, four choose the checkpoint here; --val none gives all 18 back.
_TEST = ["0001", "0002", "0003", "0004", "0008", "0022", "0025", "0029", "0032", "0035", "0036", "0038"]
_VAL = ["0005", "0021", "0030", "0037"]
# BTCV's ids of the eight organs, in the paper's order.
_ORGANS = (8, 4, 3, 2, 6, 11, 1, 7)


@READERS.register_module(name="synapse")
class SynapseReader(NiftiReader):
    """``RawData/Training/{img/imgNNNN.nii.gz, label/labelNNNN.nii.gz}``; 13 BTCV organs become the paper's eight."""

    name = "synapse"
    classes = ("Aor", "Gal", "KidL", "KidR", "Liv", "Pan", "Spl", "Sto")
    modality = "ct"
    expects = "RawData/Training/{img/imgNNNN.nii.gz, label/labelNNNN.nii.gz}"

    def find(self):
        """Return the cases of ``img``, with the labels of the same number."""
        base = self.root / "RawData" / "Training"
        if not (base / "img").is_dir():
            return [], [f"{base / 'img'}: no such folder; expected {self.expects}"]
        labels, problems = nifti_files(base / "label") if (base / "label").is_dir() else ({}, [])
        images, more = nifti_files(base / "img")
        lists = {s: read_list(self.root / "splits" / f"{s}.txt") for s in SPLITS}
        listed, twice = split_of(self.root / "splits", lists)
        rows = []
        for stem, image in images.items():
            number = stem.removeprefix("img")
            split = "test" if number in _TEST else "val" if number in _VAL else "train"
            split = listed.get(f"case{number}", split) if listed else split
            label = labels.pop(f"label{number}", None)
            rows.append((f"case{number}", split, (image,), (label,) if label else None))
        problems += [f"{path}: a label without its image in {base / 'img'}" for path in labels.values()]
        unknown = sorted(set(listed) - {row[0] for row in rows})
        problems += [f"{self.root / 'splits'}: {case} is listed, but there is no such image" for case in unknown]
        return rows, problems + more + twice

    def read_label(self, case):
        """Read the labels as the eight classes; the other organs become background."""
        volume = super().read_label(case)
        if volume is None:
            return None
        volume = whole_labels(case.labels[0], volume)
        seen = np.unique(volume.voxels)
        if any(not 0 <= value <= 13 and value != UNKNOWN for value in seen):
            raise InputError(f"{case.labels[0]}: expected the BTCV labels 0 to 13, got {_some(seen)}")
        table = np.zeros(UNKNOWN + 1, dtype=np.uint8)
        table[list(_ORGANS)] = np.arange(1, 9)
        table[UNKNOWN] = UNKNOWN
        return volume._replace(voxels=table[volume.voxels.astype(np.int64)])


def _some(values):
    return ", ".join(f"{v:g}" for v in values[:3]) + (f" … {values[-1]:g}" if len(values) > 3 else "")
