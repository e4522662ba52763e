"""A plain folder of NIfTI files."""

import re

import numpy as np

from cmems.datasets.readers.base import NiftiReader, whole_labels
from cmems.datasets.readers.files import nifti_files
from cmems.datasets.readers.nifti import read_nifti
from cmems.errors import InputError
from cmems.registry import READERS

_CHANNEL = re.compile(r"(.+)_(\d{4})")


@READERS.register_module(name="nifti")
class NiftiFolderReader(NiftiReader):
    """``images/NAME.nii.gz`` and, where there are labels, ``labels/NAME.nii.gz``; nnU-Net's ``imagesTr`` do too.

    An image may carry nnU-Net's channel, ``NAME_0000.nii.gz``, where its label is ``NAME.nii.gz``.

    Args:
        root, val, test, splits, fold: As every reader.
        classes (sequence[str]): Foreground classes; label k is the k-th.
        modality (str): ``mr`` or ``ct``.
        labels (sequence[int] | None): The number of each class in the files; other numbers become background. Default:
            1 … K.
        channel (int | None): Which channel of each case to read, of files ``NAME_0000``, ``NAME_0001`` … or of volumes
            of four axes.
        fill_nan (bool): Read NaN as the volume's smallest value.

    Raises:
        InputError: The folder is missing, or an option is wrong.
    """

    name = "nifti"
    expects = "images/NAME.nii.gz and labels/NAME.nii.gz (labels only where there are any)"

    def __init__(self, root, val=None, test=None, splits=None, fold=None, classes=(), modality="mr", labels=None,
                 channel=None, fill_nan=False):  # fmt: skip
        super().__init__(root, val, test, splits, fold)
        if not classes:
            raise InputError(
                "--classes: a folder of NIfTI files needs its foreground classes, e.g. --classes RV,Myo,LV"
            )
        if modality not in ("mr", "ct"):
            raise InputError(f"--modality: expected mr or ct, got {modality!r}")
        if labels is not None and (len(labels) != len(classes) or len({0, *labels}) <= len(labels)):
            raise InputError(f"--labels: expected {len(classes)} different numbers other than 0, got {labels}")
        if channel is not None and channel < 0:
            raise InputError(f"--channel: expected 0 or more, got {channel}")
        self.classes, self.modality = tuple(classes), modality
        self.labels, self.channel, self.fill_nan = labels, channel, fill_nan
        self.name = self.root.resolve().name

    def settings(self):
        """Return what every reader does, and the options of this one."""
        return dict(super().settings(), labels=self.labels, **self.reading())

    def reading(self):
        """Return the channel and whether NaN are filled."""
        return dict(channel=self.channel, fill_nan=self.fill_nan)

    def find(self):
        """Return a case per image."""
        pairs = (("images", "labels"), ("imagesTr", "labelsTr"))
        images, labels = next((p for p in pairs if (self.root / p[0]).is_dir()), (None, None))
        if images is None:
            return [], [f"{self.root / 'images'}: no such folder; expected {self.expects}"]
        known, problems = nifti_files(self.root / labels) if (self.root / labels).is_dir() else ({}, [])
        scans, more = nifti_files(self.root / images)
        scans, even_more = self._channels(scans, known, images == "imagesTr")
        rows = []
        for stem, image in scans.items():
            label = known.pop(stem, None)
            rows.append((stem, "train", (image,), (label,) if label else None))
        problems += [f"{path}: a label without its image in {self.root / images}" for path in known.values()]
        return rows, problems + more + even_more

    def _channels(self, scans, known, by_suffix):
        """Return the scans by case, of several channels the one asked for, and problems."""
        cases, found = {}, {}
        for stem, path in scans.items():
            match = _CHANNEL.fullmatch(stem)
            if match and stem not in known and (by_suffix or match[1] in known):
                cases.setdefault(match[1], {})[int(match[2])] = path
            else:
                found[stem] = path
        problems = []
        for case, paths in cases.items():
            if case in found:
                problems.append(f"{found[case]}: the same case as {next(iter(paths.values())).name}; keep one of them")
            elif self.channel is None and len(paths) == 1:
                found[case] = next(iter(paths.values()))
            elif self.channel is None:
                names = ", ".join(p.name for p in paths.values())
                problems.append(f"{self.root}: {len(paths)} channels of {case}: {names}; --channel picks one")
            elif self.channel in paths:
                found[case] = paths[self.channel]
            else:
                problems.append(f"{self.root}: --channel {self.channel}: {case} has {', '.join(map(str, paths))}")
        return found, problems

    def read_image(self, case):
        """Read the channel that is asked for, NaN filled where that is."""
        path = case.images[0]
        volume = read_nifti(path, self.channel)
        return filled(volume) if self.fill_nan else volume

    def read_label(self, case):
        """Read the labels, each class under its own number."""
        volume = super().read_label(case)
        if volume is None or self.labels is None:
            return volume
        voxels = whole_labels(case.labels[0], volume).voxels
        mapped = np.zeros(voxels.shape, dtype=np.int16)
        for k, number in enumerate(self.labels, 1):
            mapped[voxels == number] = k
        dropped = np.setdiff1d(voxels, [0, *self.labels])
        notes = (("labels that --labels does not name become background", ", ".join(f"{v:g}" for v in dropped[:5])),)
        return volume._replace(voxels=mapped, notes=volume.notes + (notes if len(dropped) else ()))


def filled(volume):
    """Return a :class:`Volume` whose NaN have its smallest value."""
    if volume.voxels.dtype.kind != "f" or not np.isnan(volume.voxels).any() or np.isnan(volume.voxels).all():
        return volume
    return volume._replace(
        voxels=np.nan_to_num(volume.voxels, nan=np.nanmin(volume.voxels), posinf=np.inf, neginf=-np.inf)
    )
