"""Whole volumes for validation and testing."""

from torch.utils.data import Dataset

from cmems.datasets.prepared import PreparedDataset
from cmems.errors import InputError
from cmems.registry import DATASETS, FUNCTIONS


@DATASETS.register_module()
class VolumeDataset(Dataset):
    """The volumes of a split at their own resolution.

    Items are what :meth:`PreparedDataset.volume` returns, with ``frame``, how slices become what the networks take.
    ``metainfo["references"]`` holds the checksum of each case's labels, ``metainfo["spacings"]`` its voxels' size.

    Args:
        data_root (str): A prepared data set.
        split (str): ``val``, ``test``, or ``valtest``, both.

    Raises:
        InputError: The split holds no volume, or is ``train``; or volumes are damaged.
    """

    def __init__(self, data_root, split):
        if split == "train":
            raise InputError(f"{data_root}: split: expected val, test or valtest; of train, slices alone are kept")
        self.prepared = PreparedDataset(data_root)
        self.cases = self.prepared.cases(split)
        files = self.prepared.manifest["files"]
        self.metainfo = dict(
            name=self.prepared.name,
            classes=self.prepared.classes,
            split=split,
            references={c: files.get(f"volumes/{c}_label.npy", {}).get("sha256") for c in self.cases},
            spacings={c: list(self.prepared.case(c)["spacing"]) for c in self.cases},
        )
        if not self.cases:
            option = "val" if split == "val" else "test"
            raise InputError(
                f"{data_root}: split '{split}' holds no case; prepare again with --{option} CASE, of scans with whole "
                "masks"
            )
        self.prepared.verify(self.cases)  # here, not at the first validation: that is an hour away

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, index):
        return dict(self.prepared.volume(self.cases[index]), frame=self.prepared.frame)


@FUNCTIONS.register_module()
def volume_collate(items):
    """Batch volumes as a list; their shapes differ."""
    return dict(volumes=items)
