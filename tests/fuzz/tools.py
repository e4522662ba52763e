"""A tiny data set of every kind, and the tools run on it in this process."""

import contextlib
import io
import json
import logging
import os
import re
import runpy
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "tests"))
from conftest import TINY, write_acdc  # noqa: E402
from PIL import Image  # noqa: E402
from test_formats import dicom, nrrd, segments  # noqa: E402

from cmems.apis.model_file import publish  # noqa: E402

FOLDER = ("--size", "32", "--workers", "1", "--val", "patient003", "--test", "patient004")
NIFTI = ("--classes", "RV,Myo,LV", "--modality", "mr", *FOLDER)
EXTRA = """
val_dataloader = val_cfg = val_evaluator = None
default_hooks = dict(checkpoint=dict(interval=1))
train_cfg = dict(max_iters=2)
"""


def tool(name, *words):
    """Run ``tools/<name>.py`` with a command line; return its exit code and what it said as errors.

    Raises:
        Exception: What the command would have shown as a traceback.
    """
    said, shown, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [name, *map(str, words)]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(REPO / "tools" / f"{name}.py"), run_name="__main__")
        return 0, said.getvalue()
    except SystemExit as ended:
        if name == "compare" and ended.code == 1:  # a run failed, which the table's lines say
            return 2, "".join(f"error: {line}\n" for line in shown.getvalue().splitlines() if " failed: " in line)
        return ended.code or 0, said.getvalue()
    finally:
        sys.argv = before
        logging.shutdown(logging._handlerList[1:])


def outcome(*words):
    """Run a tool; return ``ok``, ``refused`` or what is wrong with how it ended, and the text that says so."""
    try:
        code, said = tool(*words)
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "cmems" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} " if frames else ""
        return "traceback", f"{where}{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    message = said[said.find("error: ") :] if "error: " in said else ""
    if code and (code != 2 or not message or "Traceback" in said):
        return "traceback", f"exit code {code}: {said[-150:]!r}"
    if any(not c.isprintable() and c != "\n" for c in message) or len(message) > 20_000:
        return "unreadable", repr(message)[:200]
    return ("refused", message.strip()) if code else ("ok", "")


def build(base):
    """Make the data sets, a config and a checkpoint under ``base``; all of them small."""
    write_acdc(base / "acdc", patients=4)
    for patient in sorted((base / "acdc" / "training").iterdir()):
        image = nib.load(next(patient.glob("*frame01.nii.gz")))
        label = nib.load(next(patient.glob("*frame01_gt.nii.gz")))
        for kind, found in (("images", image), ("labels", label)):
            (base / "nifti" / kind).mkdir(parents=True, exist_ok=True)
            nib.save(found, base / "nifti" / kind / f"{patient.name}.nii")
            (base / "niftigz" / kind).mkdir(parents=True, exist_ok=True)
            nib.save(found, base / "niftigz" / kind / f"{patient.name}.nii.gz")
        _other_formats(base, patient.name, image, label)
        voxels = np.asarray(image.dataobj).T.astype(np.float32)
        arrays = dict(image=(voxels - voxels.min()) / np.ptp(voxels), label=np.asarray(label.dataobj).T)
        number = patient.name[-3:]
        _slices(base, number, arrays, held_out=number in ("003", "004"))
    for split, names in (("val", "patient003_frame01\n"), ("test", "patient004_frame01\n")):
        (base / "ssl4mis" / f"{split}.list").write_text(names)
    lists = dict(train=["patient001", "patient002"], val=["patient003"], test=["patient004"])
    (base / "splits.json").write_text(json.dumps(lists))
    code, said = tool("prepare_data", "acdc", base / "acdc", base / "prepared", "--size", 32, "--workers", 1)
    assert code == 0, said
    (base / "tiny.py").write_text(TINY.format(repo=REPO, base="unet/unet_acdc.py", data="prepared") + EXTRA)
    os.chdir(base)
    code, said = tool("train", "tiny.py", "--work-dir", "w", "--cfg-options", "train_cfg.max_iters=1")
    assert code == 0, said
    shutil.copy(base / "w" / "last.pth", base / "last.pth")
    shutil.rmtree(base / "w")
    publish("last.pth", "model.pth")


def _other_formats(base, name, image, label):
    """Write a scan and its label as NRRD, as a DICOM series with a NIfTI label, and a slice of it as PNG."""
    voxels, mask = np.asarray(image.dataobj).astype(np.int16), np.asarray(label.dataobj).astype(np.uint8)
    nrrd(base / "nrrd" / "images" / f"{name}.nrrd", voxels, image.affine)
    nrrd(base / "nrrd" / "labels" / f"{name}.seg.nrrd", mask, image.affine, **segments("RV", "Myo", "LV"))
    dicom(base / "dicom" / "images" / name, voxels, image.affine, series=f"1.2.826.1.{name[-1]}")
    for kind, array in (("images", (voxels / voxels.max() * 255).astype(np.uint8)), ("labels", mask)):
        (base / "png" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array[:, :, 1].T).save(base / "png" / kind / f"{name}.png")
    (base / "dicom" / "labels").mkdir(parents=True, exist_ok=True)
    nib.save(label, base / "dicom" / "labels" / f"{name}.nii")


def _slices(base, number, arrays, held_out):
    h5 = base / "ssl4mis" / "data" / "slices"
    h5.mkdir(parents=True, exist_ok=True)
    (base / "transunet" / "train_npz").mkdir(parents=True, exist_ok=True)
    (base / "transunet" / "test_vol_h5").mkdir(parents=True, exist_ok=True)
    if held_out:
        for path in (h5.parent / f"patient{number}_frame01.h5", base / f"transunet/test_vol_h5/case0{number}.npy.h5"):
            with h5py.File(path, "w") as file:
                for key, array in arrays.items():
                    file.create_dataset(key, data=array, compression="gzip" if number == "004" else None)
        return
    for z in range(len(arrays["image"])):
        with h5py.File(h5 / f"patient{number}_frame01_slice_{z}.h5", "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array[z], compression="gzip" if z == 1 else None)
        save = np.savez_compressed if z == 1 else np.savez
        save(base / f"transunet/train_npz/case0{number}_slice{z:03d}.npz", **{k: a[z] for k, a in arrays.items()})


def one_line(text):
    """Return a text without what differs from file to file, to count its like."""
    return re.sub(r"0x[0-9a-f]+|\d+", "N", text)[:160]
