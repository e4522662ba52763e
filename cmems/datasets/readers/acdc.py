"""The ACDC challenge's raw layout."""

from cmems.datasets.readers.base import SPLITS, NiftiReader, read_list, split_of
from cmems.datasets.readers.files import nifti_files
from cmems.registry import READERS

# The split of the semi-supervised literature (SSL4MIS): 70 train, 10 val, 20 test patients.
_VAL = ["002", "019", "028", "030", "039", "045", "078", "082", "085", "087"]
_TEST = [
    "001",
    "007",
    "008",
    "011",
    "013",
    "022",
    "024",
    "033",
    "052",
    "059",
    "064",
    "065",
    "066",
    "068",
    "075",
    "080",
    "081",
    "083",
    "084",
    "093",
]


@READERS.register_module(name="acdc")
class ACDCReader(NiftiReader):
    """``training/patientNNN/{Info.cfg, patientNNN_frameFF.nii.gz, patientNNN_frameFF_gt.nii.gz}``.

    Two volumes a patient, end-diastole and end-systole as ``Info.cfg`` names them. Splits come from
    ``splits/{train,val,test}.txt`` (patients) where there is such a folder, else from the semi-supervised literature.
    """

    name = "acdc"
    classes = ("RV", "Myo", "LV")
    modality = "mr"
    expects = "training/patientNNN/{Info.cfg, patientNNN_frameFF.nii.gz, patientNNN_frameFF_gt.nii.gz}"

    def find(self):
        """Return the cases of every patient folder, and what is missing."""
        folders = sorted(p for base in (self.root, self.root / "training", self.root / "testing")
                         for p in base.glob("patient*") if p.is_dir())  # fmt: skip
        lists = {s: read_list(self.root / "splits" / f"{s}.txt") for s in SPLITS}
        (listed, problems), rows = split_of(self.root / "splits", lists), []
        for patient in sorted(set(listed) - {f.name for f in folders}):
            problems.append(f"{self.root / 'splits'}: {patient} is listed, but there is no such patient folder")
        for folder in folders:
            files, odd = nifti_files(folder)
            frames, problem = _frames(folder)
            problems += odd
            problems += problem
            split = listed.get(folder.name, None if listed else self._split(folder))
            if split is None:
                continue
            for frame in frames:
                name = f"{folder.name}_frame{frame:02d}"
                image, label = files.get(name), files.get(f"{name}_gt")
                if image is None:
                    problems.append(f"{folder / name}.nii.gz: no such file; Info.cfg names frame {frame}")
                    continue
                rows.append((name, split, (image,), (label,) if label else None))
        return rows, problems

    def _split(self, folder):
        number = folder.name.removeprefix("patient")
        if folder.parent.name == "testing" or number in _TEST:
            return "test"
        return "val" if number in _VAL else "train"


def _frames(folder):
    """Return the frame numbers that ``Info.cfg`` names, and its problems."""
    info = folder / "Info.cfg"
    if not info.is_file():
        return [], [f"{info}: no such file; expected the lines 'ED: <frame>' and 'ES: <frame>'"]
    fields = dict(line.split(":", 1) for line in info.read_text(errors="replace").splitlines() if ":" in line)
    frames, problems = [], []
    for phase in ("ED", "ES"):
        value = fields.get(phase, "").strip()
        if value.isdecimal():
            frames.append(int(value))
        else:
            problems.append(f"{info}: expected '{phase}: <frame number>', got {value!r}")
    return frames, problems
