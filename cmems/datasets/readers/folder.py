"""A plain folder of NIfTI files."""

from cmems.datasets.readers.base import Reader, nifti_files
from cmems.errors import InputError
from cmems.registry import READERS


@READERS.register_module(name="nifti")
class NiftiFolderReader(Reader):
    """``images/NAME.nii.gz`` and, where there are labels, ``labels/NAME.nii.gz``; nnU-Net's ``imagesTr`` do too.

    Args:
        root, val, test, splits: As every reader.
        classes (sequence[str]): Foreground classes; label k is the k-th.
        modality (str): ``mr`` or ``ct``.

    Raises:
        InputError: The folder is missing, or the classes are.
    """

    name = "nifti"
    expects = "images/NAME.nii.gz and labels/NAME.nii.gz (labels only where there are any)"

    def __init__(self, root, val=None, test=None, splits=None, classes=(), modality="mr"):
        super().__init__(root, val, test, splits)
        if not classes:
            raise InputError(
                "--classes: a folder of NIfTI files needs its foreground classes, e.g. --classes RV,Myo,LV"
            )
        if modality not in ("mr", "ct"):
            raise InputError(f"--modality: expected mr or ct, got {modality!r}")
        self.classes, self.modality = tuple(classes), modality
        self.name = self.root.resolve().name

    def find(self):
        """Return a case per image."""
        pairs = (("images", "labels"), ("imagesTr", "labelsTr"))
        images, labels = next((p for p in pairs if (self.root / p[0]).is_dir()), (None, None))
        if images is None:
            return [], [f"{self.root / 'images'}: no such folder; expected {self.expects}"]
        known = nifti_files(self.root / labels)
        rows = []
        for stem, image in nifti_files(self.root / images).items():
            stem = stem.removesuffix("_0000") if images == "imagesTr" else stem
            label = known.pop(stem, None)
            rows.append((stem, "train", (image,), (label,) if label else None))
        return rows, [f"{path}: a label without its image in {self.root / images}" for path in known.values()]
