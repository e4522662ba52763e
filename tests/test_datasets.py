"""From what people have on disk to a prepared data set: every layout, and what wrong input gets."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import tool, write_acdc

from cmems.datasets import prepare as module
from cmems.datasets.intensity import scale_intensity
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepare import _interrupt_held, _start_worker, check, prepare
from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.sources import TrainData, need_every_label
from cmems.datasets.store import SliceStore
from cmems.errors import InputError
from cmems.memory import free_bytes
from cmems.registry import READERS
from cmems.resize import resize_images, resize_labels
from cmems.seeding import Draws

REPO = Path(__file__).parents[1]


def nifti(path, voxels, spacing=(1.5, 1.5, 8.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)


def run_prepare(layout, raw, out, size=32, **options):
    return prepare(READERS.get(layout)(raw, **options), out, size=size, workers=1)


def test_full_supervision_reads_every_label_and_refuses_unknown_voxels(prepared_acdc, tmp_path):
    prepared = PreparedDataset(prepared_acdc)
    assert np.array_equal(need_every_label(prepared), prepared.train_labels())
    painted = np.zeros((8, 8, 3), np.uint8)
    painted[2:5, 2:5, 1] = 1
    for case in ("a", "b"):
        nifti(tmp_path / f"own/images/{case}.nii.gz", np.random.default_rng(0).random((8, 8, 3)))
        nifti(tmp_path / f"own/labels/{case}.nii.gz", painted)
    sparse = run_prepare("folder", tmp_path / "own", tmp_path / "sparse", size=16, classes=["A"])
    with pytest.raises(InputError, match=r"sparse: full supervision needs every voxel annotated; some are marked 255"):
        need_every_label(sparse)


# What a prepared data set holds


def test_acdc_is_read_as_nibabel_reads_it(raw_acdc, prepared_acdc):
    data = PreparedDataset(prepared_acdc)
    assert data.classes == ("RV", "Myo", "LV")
    assert {s: len(data.cases(s)) for s in ("train", "val", "test")} == dict(train=4, val=2, test=2)
    path = raw_acdc / "training" / "patient003" / "patient003_frame01.nii.gz"
    source, volume = nib.load(path), data.volume("patient003_frame01")
    assert volume["spacing"] == (8.0, 1.5, 1.5)
    assert np.array_equal(volume["affine"], source.affine)
    label = np.asarray(nib.load(str(path).replace(".nii", "_gt.nii")).dataobj)
    assert np.array_equal(volume["label"], label.transpose(2, 1, 0))
    voxels = np.asarray(source.dataobj).astype(np.float64).transpose(2, 1, 0)
    low, high = voxels.min(), np.percentile(voxels, 99.5)
    expected = (voxels.clip(low, high) - low) / (high - low)
    np.testing.assert_allclose(volume["image"], expected, atol=1e-3)


def test_training_slices_are_the_volumes_resized(raw_acdc, prepared_acdc):
    data = PreparedDataset(prepared_acdc)
    row = data.row("patient002_frame02", 1)
    path = raw_acdc / "training" / "patient002" / "patient002_frame02.nii.gz"
    voxels = np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)
    image = torch.from_numpy(scale_intensity(voxels, "mr")[0])[1:2]
    np.testing.assert_allclose(data.train_images()[row], resize_images(image, (32, 32))[0], atol=1e-3)
    label = torch.from_numpy(np.asarray(nib.load(str(path).replace(".nii", "_gt.nii")).dataobj).transpose(2, 1, 0))
    assert np.array_equal(data.train_labels()[row], resize_labels(label[1:2].contiguous(), (32, 32))[0])


def test_a_scan_whose_pixels_are_of_quite_another_size_is_said(prepared_acdc, tmp_path):
    known = Preparation.of(PreparedDataset(prepared_acdc))
    assert known.pixels == (1.5, 1.5)
    older = {key: value for key, value in known.plain().items() if key != "pixels"}
    voxels = np.random.default_rng(0).integers(0, 500, (20, 20, 3)).astype(np.int16)
    for mm, said in ((1.5, False), (0.5, False), (5, False), (15, True), (0.15, True)):
        nifti(tmp_path / "a.nii.gz", voxels, (mm, mm, max(8.0, mm)))
        for how in (known, Preparation.read(known.plain(), "a model"), Preparation.read(older, "an older model")):
            notes = dict(how.ready(how.read_scan(tmp_path / "a.nii.gz"), tmp_path / "a.nii.gz").notes)
            assert ([f"{mm:g} mm, theirs 1.5 mm"] == list(notes.values())) == (said and how.pixels is not None)
    with pytest.raises(InputError, match=r"a model: pixels: expected two positive numbers of mm, got \[2, 1\]"):
        Preparation.read(dict(known.plain(), pixels=[2, 1]), "a model")


def test_the_manifest_tells_sources_counts_and_ranges(raw_acdc, prepared_acdc):
    manifest = PreparedDataset(prepared_acdc).manifest
    case = manifest["cases"]["patient001_frame01"]
    source = raw_acdc / case["sources"]["image"][0]["path"]
    assert case["sources"]["image"][0]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    label = np.asarray(nib.load(raw_acdc / case["sources"]["label"][0]["path"]).dataobj)
    assert case["label_counts"] == {str(k): int((label == k).sum()) for k in range(4)}
    voxels = np.asarray(nib.load(source).dataobj)
    assert case["intensity_range"] == [float(voxels.min()), float(voxels.max())]
    assert (case["shape"], case["spacing"], case["split"]) == ([3, 40, 40], [8.0, 1.5, 1.5], "train")


def test_ct_is_clipped_to_the_window_and_the_thirteen_organs_become_eight(tmp_path):
    random, base = np.random.default_rng(0), tmp_path / "raw" / "RawData" / "Training"
    image = random.integers(-1000, 1000, (24, 20, 2)).astype(np.int16)
    label = np.arange(24 * 20 * 2).reshape(24, 20, 2).astype(np.uint8) % 14
    label[:3, 1:, 1] = 255  # not annotated
    for number in ("0006", "0008"):  # TransUNet's split: 0006 trains, 0008 tests
        nifti(base / "img" / f"img{number}.nii.gz", image, (0.7, 0.7, 3.0))
        nifti(base / "label" / f"label{number}.nii.gz", label, (0.7, 0.7, 3.0))
    data = run_prepare("synapse", tmp_path / "raw", tmp_path / "out")
    volume = data.volume("case0008")
    np.testing.assert_allclose(volume["image"], ((image + 125.0) / 400).clip(0, 1).transpose(2, 1, 0), atol=1e-3)
    ids = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8, 255: 255}
    expected = np.vectorize(lambda k: ids.get(k, 0))(label).transpose(2, 1, 0)
    assert np.array_equal(volume["label"], expected)
    assert data.cases("train") == ["case0006"]


@pytest.mark.parametrize(
    "folders", [("data/slices", "data"), ("ACDC_training_slices", "ACDC_training_volumes")], ids=str
)
def test_ssl4mis_and_wsl4mis_slices_come_back_in_order(tmp_path, folders):
    random, raw = np.random.default_rng(0), tmp_path / "raw"
    slices, volumes = raw / folders[0], raw / folders[1]
    slices.mkdir(parents=True)
    volumes.mkdir(exist_ok=True)
    image, label = random.random((12, 30, 28), dtype=np.float32), random.integers(0, 4, (12, 30, 28)).astype(np.uint8)
    for z in range(12):  # slice_10 sorts before slice_2 as text
        with h5py.File(slices / f"patient003_frame01_slice_{z}.h5", "w") as file:
            file["image"], file["label"] = image[z], label[z]
    with h5py.File(volumes / "patient002_frame01.h5", "w") as file:
        file["image"], file["label"] = image, label
    data = run_prepare("ssl4mis", raw, tmp_path / "out", spacing=(10, 1.5, 1.5))
    assert (data.cases("train"), data.cases("val")) == (["patient003_frame01"], ["patient002_frame01"])
    assert np.array_equal(data.train_labels(), resize_labels(torch.from_numpy(label), (32, 32)))
    assert data.volume("patient002_frame01")["spacing"] == (10, 1.5, 1.5)
    assert np.array_equal(data.case("patient002_frame01")["affine"], np.diag([1.5, 1.5, 10, 1]))
    for case, values in (("patient003_frame01", image[::-1]), ("patient002_frame01", image)):
        with h5py.File(volumes / f"{case}.h5", "w") as file:
            file["image"], file["label"] = values, label[::-1]
        with h5py.File(slices / f"{case}_slice_0.h5", "w") as file:
            file["image"], file["label"] = image[0], label[0]
    (raw / "val.list").write_text("patient002_frame01\n")
    both = run_prepare("ssl4mis", raw, tmp_path / "both", spacing=(10, 1.5, 1.5))  # slices train, volumes are measured
    assert np.array_equal(both.train_labels(), data.train_labels())
    assert np.array_equal(both.volume("patient002_frame01")["label"], label[::-1])
    for z in (3, 10, 11):  # the last are no gap
        (slices / f"patient003_frame01_slice_{z}.h5").unlink()
    gap = run_prepare("ssl4mis", raw, tmp_path / "gap").case("patient003_frame01")
    said = ["numbers of slices are missing; those around them count as neighbours", "without 3"]
    assert said in gap["notes"]
    assert [note for note in both.case("patient003_frame01")["notes"] if note[0] == said[0]] == []


def test_transunets_npz_slices_and_h5_volumes_are_read_as_they_are(tmp_path):
    random, raw = np.random.default_rng(0), tmp_path / "raw"
    (raw / "train_npz").mkdir(parents=True)
    (raw / "test_vol_h5").mkdir()
    image, label = random.random((3, 32, 32), dtype=np.float32), random.integers(0, 9, (3, 32, 32)).astype(np.uint8)
    for z in range(3):
        np.savez(raw / "train_npz" / f"case0006_slice{z:03d}.npz", image=image[z], label=label[z])
    with h5py.File(raw / "test_vol_h5" / "case0008.npy.h5", "w") as file:
        file["image"], file["label"] = image, label
    with h5py.File(raw / "test_vol_h5" / "case0022.npy.h5", "w") as file:
        file["image"] = 1 - image
    data = run_prepare("transunet", raw, tmp_path / "out")
    np.testing.assert_allclose(data.train_images(), image, atol=5e-4)
    assert np.array_equal(data.train_labels(), label)
    np.testing.assert_allclose(data.volume("case0008")["image"], image, atol=5e-4)
    assert np.array_equal(data.volume("case0008")["label"], label)
    assert data.volume("case0022")["label"] is None


def test_a_plain_folder_needs_only_images_and_says_which_are_labelled(tmp_path):
    random, raw = np.random.default_rng(0), tmp_path / "raw"
    for name in "abc":
        nifti(raw / "images" / f"{name}.nii.gz", random.random((20, 24, 4)).astype(np.float32))
    nifti(raw / "labels" / "b.nii.gz", (random.random((20, 24, 4)) > 0.5).astype(np.uint8))
    data = run_prepare("nifti", raw, tmp_path / "out", classes=["tumour"], val=["c"])
    assert (data.cases("train"), data.cases("val")) == (["a", "b"], ["c"])
    assert (data.train_labels()[:4] == 255).all()  # a has no label
    assert set(np.unique(data.train_labels()[4:])) == {0, 1}
    assert data.volume("c")["label"] is None
    assert {case for case, _ in data.eligible_exemplars()} == {"b"}


def test_acdcs_own_split_is_the_semi_supervised_literatures(tmp_path):
    raw = write_acdc(tmp_path / "raw", patients=3)
    shutil.rmtree(raw / "splits")
    splits = {c.name[:10]: c.split for c in READERS.get("acdc")(raw).cases()}
    assert splits == dict(patient001="test", patient002="val", patient003="train")


# Interruption, repetition, damage


def test_an_interrupted_preparation_looks_unfinished_and_goes_on_where_it_was(raw_acdc, prepared_acdc, tmp_path):
    out, converted = tmp_path / "out", []

    def stop(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(READERS.get("acdc")(raw_acdc), out, size=32, workers=1, progress=stop)
    with pytest.raises(InputError, match="its preparation was interrupted; run the same command again to go on"):
        PreparedDataset(out)
    kept = {p: p.stat().st_mtime_ns for p in (out / ".partial").glob("*.npy")}
    assert len(kept) >= 6
    prepare(READERS.get("acdc")(raw_acdc), out, size=32, workers=1, progress=lambda *a: converted.append(a[2]))
    assert 0 < len(converted) <= 5  # of eight
    assert PreparedDataset(out).manifest["files"] == PreparedDataset(prepared_acdc).manifest["files"]
    assert not (out / ".partial").exists()


def test_preparing_again_does_nothing_and_other_settings_need_overwrite(raw_acdc, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_prepare("acdc", raw_acdc, out)
    before = (out / "manifest.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("cmems.datasets.prepare.convert", lambda *a: pytest.fail("converted again"))
        run_prepare("acdc", raw_acdc, out)
    assert (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="already holds another prepared data set; --overwrite"):
        run_prepare("acdc", raw_acdc, out, size=48)
    prepare(READERS.get("acdc")(raw_acdc), out, size=48, workers=1, overwrite=True)
    assert PreparedDataset(out).train_images().shape == (12, 48, 48)


def test_a_folder_with_other_files_is_left_alone(raw_acdc, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run_prepare("acdc", raw_acdc, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_check_names_every_file_that_changed(prepared_acdc, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(prepared_acdc, out)
    assert check(out) == []
    array = np.load(out / "train_images.npy")
    array[0, 0, 0] += 0.5
    np.save(out / "train_images.npy", array)
    (out / "volumes" / "patient003_frame01_image.npy").unlink()
    done = tool("prepare_data", "--check", out)
    assert done.returncode == 2
    assert "train_images.npy: sha256: expected" in done.stderr
    assert "patient003_frame01_image.npy: no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_what_it_made_and_which_slices_can_be_the_exemplar(raw_acdc, tmp_path):
    done = tool("prepare_data", "acdc", raw_acdc, tmp_path / "out", "--size", 32)
    assert done.returncode == 0, done.stderr
    assert "train 4 volumes / 12 slices, val 2 volumes / 6 slices" in done.stdout
    assert "12 training slices hold every class" in done.stdout


# Wrong input


def break_truncated(folder):
    path = folder / "patient001_frame01.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def break_label(change):
    def broken(folder):
        path = folder / "patient001_frame01_gt.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), path)

    return broken


def break_image(change):
    def broken(folder):
        path = folder / "patient001_frame01.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj).astype(np.float32)), image.affine), path)

    return broken


def with_value(array, value, dtype=None):
    array = array if dtype is None else array.astype(dtype)
    array[0, 0, 0] = value
    return array


DAMAGE = {
    "truncated": (break_truncated, r"patient001_frame01\.nii\.gz: truncated or not a NIfTI file"),
    "shapes": (break_label(lambda a: a[:-1]), r"frame01_gt.*expected shape \(3, 40, 40\) of .*, got \(3, 40, 39\)"),
    "range": (break_label(lambda a: with_value(a, 7)), r"frame01_gt.*expected labels 0 to 3, got 7"),
    "negative": (break_label(lambda a: with_value(a, -1, np.int16)), r"expected labels 0 to 3, got -1"),
    "fraction": (break_label(lambda a: with_value(a, 1.5, np.float32)), r"expected integer labels, got 1\.5"),
    "nan": (break_image(lambda a: with_value(a, np.nan)), r"expected finite voxels, got 1 NaN or infinite"),
    "constant": (break_image(lambda a: a * 0 + 3), r"expected an image, got the constant 3"),
    "4-D": (break_image(lambda a: np.stack([a, a], -1)), r"expected a 3-D volume, got shape \(40, 40, 3, 2\)"),
    "4-D mask": (break_label(lambda a: np.stack([a, a], -1)), r"_gt.*expected a 3-D.*; a mask has one label per voxel"),
    "absent": (lambda f: (f / "patient001_frame01.nii.gz").unlink(), r"no such file; Info\.cfg names frame 1"),
    "no Info.cfg": (lambda f: (f / "Info.cfg").unlink(), r"Info\.cfg: no such file; expected the lines 'ED: "),
    "bad Info.cfg": (lambda f: (f / "Info.cfg").write_text("ED: one\nES: 2\n"), r"expected 'ED: <frame.*got 'one'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_what_was_expected_and_seen(damage, raw_acdc, tmp_path):
    breaks, message = DAMAGE[damage]
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw_acdc, raw)
    breaks(raw / "training" / "patient001")
    with pytest.raises(InputError, match=message):
        run_prepare("acdc", raw, out)
    assert not (out / "manifest.json").exists()


def test_all_problems_of_a_raw_folder_are_reported_at_once(raw_acdc, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw_acdc, raw)
    DAMAGE["range"][0](raw / "training" / "patient001")
    DAMAGE["nan"][0](raw / "training" / "patient001")
    for patient in ("patient002", "patient003"):
        nifti(raw / "training" / patient / f"{patient}_frame02.nii.gz", np.ones((40, 40, 3), np.int16))
    done = tool("prepare_data", "acdc", raw, out, "--size", 32, "--workers", 1)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 4 problems:")
    for words in ("frame01_gt.nii.gz: expected labels", "patient002_frame02", "patient003_frame02"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("acdc", "nowhere", "out"), "nowhere: no such folder; expected training/patientNNN"),
        (("acdx", ".", "out"), "reader 'acdx' is not registered: did you mean acdc"),
        (("nifti", ".", "out"), "--classes: a folder of scans needs its foreground classes"),
        (("acdc", ".", "out", "--classes", "a,b"), "--classes: layout acdc has no such option"),
        (("nifti", ".", "out", "--labels", "1,x"), "--labels 1,x: expected whole numbers, comma-separated"),
        (("acdc", "docs", "out"), "docs: no case found; expected training/patientNNN"),
        (("acdc", "RAW", "out", "--val", "patient9"), "--val patient9: no such case"),
        (("acdc", "RAW", "out", "--size", "8"), "--size: expected an integer of 16 to 4096 pixels, got 8"),
        (("acdc", "RAW", "out", "--workers", "-1"), "--workers: expected an integer of 1 or more, got -1"),
        (("acdc",), "expected LAYOUT RAW OUT"),
        (("--check", "docs"), "docs: not a prepared data set: it has no manifest.json"),
    ],
)
def test_a_wrong_command_ends_in_one_message(arguments, message, raw_acdc, tmp_path):
    words = {"out": str(tmp_path / "out"), "RAW": str(raw_acdc)}
    done = tool("prepare_data", *(words.get(a, a) for a in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_process_that_starts_while_ctrl_c_is_held_never_sees_it():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    with _interrupt_held():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "went on\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_make_what_one_process_makes(raw_acdc, prepared_acdc, tmp_path, monkeypatch):
    asked, pool = [], module.ProcessPoolExecutor
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda n, **options: asked.append(n) or pool(n, **options))
    for seconds in (60.0, 0.0):
        monkeypatch.setattr(module, "ALONE", seconds)
        prepare(READERS.get("acdc")(raw_acdc), tmp_path / str(seconds), size=32, workers=2)
    assert asked == [2]
    one, *two = (json.dumps(PreparedDataset(each).manifest) for each in (prepared_acdc, *tmp_path.iterdir()))
    assert two == [one, one]  # in order, too


def broken():
    raise BrokenProcessPool("as of a worker that never began")


@pytest.mark.parametrize(
    ("at_second", "ended", "told"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt, ""),
        (broken, InputError, "fewer --workers; in a script .* __name__ =="),
    ],
    ids=["Ctrl-C", "no worker starts"],
)
def test_what_ends_the_start_of_workers_ends_them(at_second, ended, told, raw_acdc, tmp_path, monkeypatch):
    class Pool(module.ProcessPoolExecutor):
        submitted = 0

        def submit(self, *args):
            self.submitted += 1
            if self.submitted == 2:
                at_second()
            return super().submit(*args)

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(module, "ALONE", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of pytest-xdist ignore it
    try:
        with pytest.raises(ended, match=told):
            prepare(READERS.get("acdc")(raw_acdc), tmp_path / "out", size=32, workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(list((tmp_path / "out").rglob("*_image.npy"))) < 8


def test_a_worker_ends_with_the_process_that_started_it():
    fork = get_context("fork")
    ours, theirs = fork.Pipe()

    def work():
        _start_worker()
        theirs.send(os.getpid())
        time.sleep(60)

    def start():
        fork.Process(target=work).start()
        time.sleep(60)

    parent = fork.Process(target=start)
    parent.start()
    theirs.close()
    assert ours.recv() != parent.pid
    parent.kill()
    assert ours.poll(20)
    with pytest.raises(EOFError):  # the worker held the other end
        ours.recv()


def test_an_unlabelled_case_cannot_be_the_exemplar_nor_train_full_supervision(tmp_path):
    random, raw = np.random.default_rng(0), tmp_path / "raw"
    for name in "ab":
        nifti(raw / "images" / f"{name}.nii.gz", random.random((32, 32, 2)).astype(np.float32))
    nifti(raw / "labels" / "b.nii.gz", (random.random((32, 32, 2)) > 0.5).astype(np.uint8))
    run_prepare("nifti", raw, tmp_path / "out", classes=["tumour"])
    with pytest.raises(InputError, match="case=a slice=0.*this case has no label"):
        TrainData(tmp_path / "out", dict(case="a", slice=0))
    with pytest.raises(InputError, match="needs every train case labelled; without: a"):
        TrainData(tmp_path / "out", labeled=dict(type="LabeledSource", batch_size=2))


# The sources of a step


def sources(root, **options):
    source = dict(
        type="SyntheticSource",
        batch_size=6,
        synthesizer=dict(
            type="ExemplarPaste", geometric=dict(type="RandomAffine"), intensity=dict(type="RandomGammaGain")
        ),
    )
    exemplar = dict(case="patient001_frame01", slice=1)
    return TrainData(
        root, exemplar, synthetic=dict(source, **options), unlabeled=dict(type="UnlabeledSource", batch_size=6)
    )


def test_per_background_is_a_finite_set_fixed_by_the_seed(prepared_acdc):
    data = sources(prepared_acdc, per_background=2)
    assert len(data.sources["synthetic"]) == 12 * 2
    seen = {}
    for step in range(40):
        draws = Draws(0, step)
        ids = data.sources["synthetic"].rows(draws, 24)
        for i, image in zip(ids.tolist(), data(draws)["synthetic"]["images"], strict=True):
            assert torch.equal(seen.setdefault(i, image), image)
    assert len(seen) == 24
    endless = sources(prepared_acdc)
    first, second = (endless(Draws(0, step))["synthetic"]["images"] for step in (0, 1))
    assert not torch.equal(first, second)


def test_a_batch_is_a_function_of_seed_step_and_rank(prepared_acdc):
    data = sources(prepared_acdc)
    base = data(Draws(0, 5))["unlabeled"]["images"]
    assert torch.equal(base, data(Draws(0, 5))["unlabeled"]["images"])
    for other in (Draws(1, 5), Draws(0, 6), Draws(0, 5, rank=1, processes=2)):
        assert not torch.equal(base, data(other)["unlabeled"]["images"])


def test_a_store_too_large_for_the_device_serves_the_same_batches_from_the_map(prepared_acdc):
    images = PreparedDataset(prepared_acdc).train_images()
    resident, mapped = SliceStore(images), SliceStore(images, limit=0)
    assert resident.resident
    assert not mapped.resident
    rows = torch.tensor([3, 0, 11, 3])
    assert torch.equal(resident[rows], mapped[rows])
    assert resident[rows].shape == (4, 1, 32, 32)


def test_no_label_is_reachable_from_the_unlabelled_source(prepared_acdc):
    store = sources(prepared_acdc).store
    held = [v for v in vars(store).values() if isinstance(v, torch.Tensor | np.ndarray)]
    assert [tuple(v.shape) for v in held] == [(12, 32, 32)]
    assert held[0].dtype == torch.float16


def test_a_store_takes_half_of_what_is_free_and_reads_the_rest_from_its_file(prepared_acdc, tmp_path, monkeypatch):
    file = tmp_path / "train_images.npy"
    shutil.copy(prepared_acdc / "train_images.npy", file)
    images, rows = np.load(file, mmap_mode="r"), torch.tensor([9, 0])
    for free, resident in ((2 * images.nbytes, True), (2 * images.nbytes - 2, False)):
        monkeypatch.setattr("cmems.datasets.store.free_bytes", lambda device, free=free: free)
        assert SliceStore(images).resident == resident
    for part in (images[2:], np.array(images)[2:]):  # neither starts where the file does
        assert torch.equal(SliceStore(part, limit=0)[rows], SliceStore(images)[rows + 2])
    mapped = SliceStore(images, limit=0)
    os.truncate(file, file.stat().st_size - 60)
    assert torch.equal(
        mapped[rows], torch.from_numpy(np.load(prepared_acdc / "train_images.npy")[rows]).float()[:, None]
    )
    with pytest.raises(InputError, match=r"train_images\.npy: truncated; check with `cmems check`"):
        mapped[torch.tensor([0, 11])]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Scans of 4, 8, 2 and 4 slices, of which c is unlabelled, d painted on two; slice 3 of a lacks class 2."""
    root, random = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    for case, depth in dict(a=4, b=8, c=2, d=4).items():
        nifti(root / f"raw/images/{case}.nii.gz", random.random((16, 16, depth)).astype(np.float32))
        painted = np.zeros((16, 16, depth), np.uint8)
        painted[2:9, 3:7], painted[2:9, 7:12] = 1, 2
        if case == "a":
            painted[..., 3] = painted[..., 3].clip(max=1)
            painted[0, 0, 2] = 255
        if case == "d":
            painted[..., [0, 2]] = 0
        if case != "c":
            nifti(root / f"raw/labels/{case}.nii.gz", painted)
    return run_prepare("folder", root / "raw", root / "data", size=16, classes=["A", "B"]).root


class Shown:
    """An Ω that shows backgrounds as they are, and knows of nothing else."""

    def __call__(self, exemplars, labels, backgrounds, stream):
        return backgrounds, labels[:1].expand(len(backgrounds), -1, -1)


class Turned(Shown):
    def __call__(self, exemplars, labels, backgrounds, stream, turns):
        return backgrounds + turns.sum(), labels[:1].expand(len(backgrounds), -1, -1)


def shown(omega=Shown, **options):
    return dict(type="SyntheticSource", batch_size=5, synthesizer=dict(type=omega), **options)


A, UNLABELED = dict(case="a", slice=1), dict(type="UnlabeledSource", batch_size=5)


def test_labelled_slices_of_every_setting_are_exemplars_in_their_order(uneven):
    further = [dict(case="b", slice=2), dict(case="a", slice=0)]
    data = TrainData(uneven, A, further, ["a"], unlabeled=UNLABELED)
    prepared = PreparedDataset(uneven)
    expected = [prepared.row(case, index) for case, index in (("a", 1), ("b", 2), ("a", 0), ("a", 2), ("a", 3))]
    assert (data.exemplar_rows, data.given) == (expected, 5)
    images, labels = data.exemplars
    assert torch.equal(images, data.store[torch.tensor(expected)])
    assert np.array_equal(labels, prepared.train_labels()[expected])
    assert TrainData(uneven, None, None, None, unlabeled=UNLABELED).exemplar_rows == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(exemplar_slice="a 1"), "exemplar_slice: expected dict(case=..., slice=...), got 'a 1'"),
        (dict(exemplar_slice=dict(case="a")), "exemplar_slice: expected dict(case=..., slice=...), got {'case': 'a'}"),
        (dict(exemplar_slices=A), "exemplar_slices: expected a list of dict(case=..., slice=...), got {'case'"),
        (dict(exemplar_slices=[A, "a"]), "exemplar_slices: expected a list of dict(case=..., slice=...), got [{"),
        (dict(labeled_cases="a"), "labeled_cases: expected a list of cases, got 'a'"),
        (dict(labeled_cases=["a", 1]), "labeled_cases: expected a list of cases, got ['a', 1]"),
        (dict(exemplar_slice=dict(case="d", slice=0)), "a labelled slice, but of this case only 1, 3 is painted"),
        (dict(unlabeled=dict(UNLABELED, batch_size=0)), "batch_size: expected a positive integer, got 0"),
        (dict(unlabeled=dict(UNLABELED, batch_size="2")), "batch_size: expected a positive integer, got '2'"),
        (dict(synthetic=shown(per_background=0)), "per_background: expected a positive integer or None, got 0"),
        (dict(synthetic=shown(per_background=2.0)), "per_background: expected a positive integer or None, got 2.0"),
        (dict(synthetic=shown(levels=1.1)), "levels: expected a number from 0 to 1, got 1.1"),
    ],
)
def test_a_setting_of_the_sources_that_cannot_be_is_named(uneven, settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TrainData(uneven, **dict(dict(exemplar_slice=A), **settings))


def test_slices_that_hold_every_class_are_named_five_at_most(uneven):
    with pytest.raises(InputError, match=r"but B is absent; slices that hold all: (case=\w slice=\d(, )?){5}$"):
        TrainData(uneven, dict(case="a", slice=3))


def test_labels_that_are_partly_unknown_are_said_to_be(uneven):
    for index, partial in ((1, None), (2, True)):
        data = TrainData(
            uneven,
            dict(case="a", slice=index),
            exemplar=dict(type="ExemplarSource", batch_size=1),
            synthetic=shown(),
            unlabeled=UNLABELED,
        )
        found = {name: entry.get("partial") for name, entry in data(Draws(0, 0)).items()}
        assert found == dict(exemplar=partial, synthetic=partial, unlabeled=None)


@pytest.mark.parametrize("per_background", [None, 1, 3])
@pytest.mark.parametrize("levels", [None, 0.125])
def test_what_is_said_to_be_shown_is_shown(uneven, per_background, levels):
    options = dict(per_background=per_background, levels=levels)
    exemplar = dict(type="ExemplarSource", batch_size=5)
    data = TrainData(
        uneven, A, [dict(case="b", slice=0)], exemplar=exemplar, synthetic=shown(**options), unlabeled=UNLABELED
    )
    seen, prepared = {name: set() for name in data.sources}, data.prepared
    for step in range(12):
        batches, named = data(Draws(0, step)), data.cases(Draws(0, step))
        for name, batch in batches.items():
            rows = [prepared.row(case, int(index)) for case, index in map(str.split, named[name])]
            assert torch.equal(batch["images"], data.store[torch.tensor(rows)])
            seen[name].update(named[name])
    assert seen["exemplar"] == {"a 1", "b 0"}
    everything = {f"{case} {i}" for case, depth in dict(a=4, b=8, c=2, d=4).items() for i in range(depth)}
    # Places in the stack: 3/8 and 1/16 are the exemplars'.
    near = {"a 0", "a 1", "b 0", "b 1", "b 2", "b 3", "c 0", "d 0", "d 1"}
    assert seen["synthetic"] == (near if levels else everything)
    assert seen["unlabeled"] == everything
    assert len(data.sources["synthetic"]) == (per_background or 1) * (9 if levels else 18)


def test_one_exemplar_needs_no_name_and_sources_that_are_not_wanted_stay_closed(uneven):
    sources = dict(exemplar=dict(type="ExemplarSource", batch_size=2), unlabeled=UNLABELED, labeled=shown(levels=1))
    data = TrainData(uneven, A, wanted=("exemplar", "unlabeled"), **sources)
    assert data.names == ("exemplar", "unlabeled", "labeled")
    assert list(data(Draws(0, 0))) == ["exemplar", "unlabeled"]
    assert data.cases(Draws(0, 0))["exemplar"] == []
    data.sources["unlabeled"] = lambda draws: dict(images=data.store[torch.tensor([draws.step])])  # anyone's
    assert data(Draws(0, 0))["unlabeled"].keys() == {"images"}
    assert list(data.cases(Draws(0, 0))) == ["exemplar"]


def test_sources_of_what_prediction_will_meet_say_so(uneven, tmp_path):
    shutil.copy(uneven.parent / "raw/labels/a.nii.gz", tmp_path)
    data = TrainData(
        uneven,
        A,
        exemplar=dict(type="ExemplarSource", batch_size=1),
        synthetic=shown(),
        unlabeled=UNLABELED,
        static=dict(type="StaticLabels", batch_size=1, folder=str(tmp_path)),
    )
    assert {name: source.serves_scans for name, source in data.sources.items()} == dict(
        exemplar=False, synthetic=False, unlabeled=True, static=True
    )
    assert data(Draws(0, 0))["static"]["partial"]  # whatever the masks hold


def test_sources_of_one_type_draw_each_for_itself(uneven):
    scoped = {**UNLABELED, "type": f"cmems.{UNLABELED['type']}"}
    sources = dict(unlabeled=UNLABELED, more=scoped, synthetic=shown(), others=shown())
    batches, named = (TrainData(uneven, A, **sources).__getattribute__(what) for what in ("__call__", "cases"))
    alone = TrainData(uneven, A, unlabeled=UNLABELED, synthetic=shown())
    for step in range(3):
        draws = Draws(0, step)
        made = batches(draws)
        assert not torch.equal(made["unlabeled"]["images"], made["more"]["images"])
        assert not torch.equal(made["synthetic"]["images"], made["others"]["images"])
        assert named(draws)["unlabeled"] != named(draws)["more"]
        for name, batch in alone(draws).items():  # the first of a type as ever
            assert torch.equal(batch["images"], made[name]["images"])


class Carried:
    """Says of a slice what the exemplar's labels say."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, images, stacks, labels):
        assert [len(stack) for stack in stacks] == [4, 8, 2, 4]
        ((row, label),) = labels.items()
        assert images[row].shape == label.shape
        return {other: label + other for other in self.rows}


class Found:
    """Turns an exemplar by its row."""

    def __call__(self, images, stacks, rows, labels):
        assert [len(stack) for stack in stacks] == [4, 8, 2, 4]
        assert (len(images), len(rows)) == (18, len(labels))
        return torch.tensor(rows).float()


def test_what_is_carried_comes_after_the_exemplar_and_what_turns_them_reaches_omega(uneven):
    carry, find = dict(propagation=dict(type=Carried, rows=[6, 3])), dict(orientation=dict(type=Found))
    data = TrainData(uneven, A, **carry, **find, synthetic=shown(Turned))
    assert (data.exemplar_rows, data.given, data.turns.tolist()) == ([1, 6, 3], 1, [1, 6, 3])
    images, labels = data.exemplars
    assert torch.equal(images, data.store[torch.tensor([1, 6, 3])])
    assert torch.equal(labels - labels[:1], torch.tensor([0, 6, 3], dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16))
    draws = Draws(0, 0)
    shifted = data.store[data.sources["synthetic"].drawn(draws)] + 10
    torch.testing.assert_close(data(draws)["synthetic"]["images"], shifted)
    nothing = TrainData(uneven, A, propagation=dict(type=Carried, rows=[]), unlabeled=UNLABELED)
    assert (nothing.exemplar_rows, len(nothing.exemplars[0]), nothing.turns) == ([1], 1, None)
    assert TrainData(uneven, **carry, **find, unlabeled=UNLABELED).exemplars is None


def test_slices_of_a_labelled_case_that_are_exemplars_already_count_once(prepared_acdc):
    case = "patient001_frame01"
    for cases in ([case], [case, case]):
        data = TrainData(prepared_acdc, dict(case=case, slice=1), labeled_cases=cases)
        assert data.exemplar_rows == [1, 0, 2]
        assert data.given == len(data.exemplars[1]) == 3
        assert np.array_equal(data.exemplars[1], data.prepared.train_labels()[[1, 0, 2]])


# Real scans


def test_real_acdc_is_the_set_the_literature_trains_on(real_data, tmp_path):
    """70 training patients with 1,312 slices (SSL4MIS); exemplar A holds every class."""
    cases = READERS.get("acdc")(real_data / "acdc").cases()
    train = [c for c in cases if c.split == "train"]
    assert len({c.name[:10] for c in train}) == 70
    assert sum(nib.load(c.images[0]).shape[2] for c in train) == 1312
    assert len([c for c in cases if c.split == "val"]) == 20
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps(dict(train=["patient005"], val=["patient002"], test=[])))
    data = run_prepare("acdc", real_data / "acdc", tmp_path / "out", size=64, splits=splits)
    (image,), (label,) = TrainData(data.root, dict(case="patient005_frame01", slice=2)).exemplars
    assert set(label.unique().tolist()) == {0, 1, 2, 3}
    assert 0 <= image.min() < image.max() <= 1


def test_real_synapse_has_eight_organs_and_the_usual_split(real_data, tmp_path):
    cases = READERS.get("synapse")(real_data / "synapse", val=["none"]).cases()
    assert [c.split for c in cases] == ["train"] * 18
    assert sum(nib.load(c.images[0]).shape[2] for c in cases) == 2211
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps(dict(train=["case0033"], val=[], test=[])))
    data = run_prepare("synapse", real_data / "synapse", tmp_path / "out", size=64, splits=splits)
    assert ("case0033", 70) in data.eligible_exemplars()


@pytest.mark.parametrize(
    ("kinds", "folder", "names"),
    [
        ("", "", ("memory.max", "memory.current", "inactive_file")),
        ("4:cpu,memory", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_memory_is_no_more_than_a_container_or_a_job_has_left(kinds, folder, names, tmp_path, monkeypatch):
    number, kinds = kinds.split(":") if kinds else ("0", "")
    (tmp_path / "own").write_text(f"9:pids:/x\n{number}:{kinds}:/slurm/job_1\n")
    monkeypatch.setattr("cmems.memory._GROUP", tmp_path / "own")
    monkeypatch.setattr("cmems.memory._GROUPS", tmp_path / "groups")
    whole, group = free_bytes(), tmp_path / "groups" / folder / "slurm" / "job_1"
    group.mkdir(parents=True)
    limit, taken, files = names
    for where, most in ((group, "max"), (group.parent, str(3 << 20))):
        (where / limit).write_text(f"{most}\n")
        (where / taken).write_text(f"{2 << 20}\n")
        (where / "memory.stat").write_text(f"anon 1\n{files} {1 << 19}\n")
    assert free_bytes() == (1 << 20) + (1 << 19)
    (group / limit).write_text(f"{1 << 20}\n")  # less than was taken
    assert free_bytes() == 0
    monkeypatch.setattr("cmems.memory._GROUP", tmp_path / "none")
    assert free_bytes() > whole // 2
