"""The phantoms: repeatable, readable as the real layouts, anatomically sane, and not to be had by a threshold."""

import runpy
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cmems.datasets import phantom
from cmems.datasets.phantom import (
    ABDOMEN_EXEMPLAR,
    CARDIAC_EXEMPLAR,
    make_abdomen,
    make_cardiac,
)
from cmems.errors import InputError
from cmems.registry import READERS

REPO = Path(__file__).parents[1]
RV, MYO, LV = 1, 2, 3
ORGANS = dict(aorta=8, gallbladder=4, kidney_l=3, kidney_r=2, liver=6, pancreas=11, spleen=1, stomach=7)
cardiac_volume, abdomen_volume = cache(phantom.cardiac_volume), cache(phantom.abdomen_volume)


@pytest.fixture(scope="module")
def cardiac(tmp_path_factory):
    return make_cardiac(str(tmp_path_factory.mktemp("phantom") / "cardiac"), train=2, val=1, test=1)


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory):
    return make_abdomen(str(tmp_path_factory.mktemp("phantom") / "abdomen"), train=2, val=1, test=1)


@pytest.mark.parametrize("make", [lambda s: phantom.cardiac_volume(s, 3, 1), lambda s: phantom.abdomen_volume(s, 9)])
def test_the_seed_alone_decides_a_patient(make):
    (image, label, spacing), again, other = make(0), make(0), make(1)
    assert np.array_equal(image, again[0])
    assert np.array_equal(label, again[1])
    assert spacing == again[2] != other[2]
    assert not np.array_equal(image, other[0])


def test_the_same_seed_writes_the_same_bytes_and_one_more_patient_changes_no_other(cardiac, tmp_path):
    more = make_cardiac(tmp_path / "more", train=3, val=1, test=1)
    files = [p.relative_to(cardiac) for p in (cardiac / "training").rglob("*") if p.is_file()]
    assert len(files) == 4 * 5
    assert all((cardiac / f).read_bytes() == (more / f).read_bytes() for f in files)
    assert (more / "training" / "patient005").is_dir()


def test_the_readers_of_the_real_layouts_read_them(cardiac, abdomen):
    cases = READERS.get("acdc")(cardiac).cases()
    assert [c.split for c in cases] == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    reader = READERS.get("synapse")(abdomen)
    cases = reader.cases()
    assert [(c.name, c.split) for c in cases] == [
        ("case0006", "train"), ("case0007", "train"), ("case0005", "val"), ("case0008", "test")
    ]  # fmt: skip
    volume, label = reader.read_image(cases[0]), reader.read_label(cases[0])
    assert volume.voxels.shape == label.voxels.shape
    assert set(np.unique(label.voxels)) == set(range(9))


def test_an_abdomens_organs_lie_where_a_patients_do_in_the_files_world_coordinates(abdomen):
    label = nib.load(next(abdomen.rglob("label0006.nii.gz")))

    def centre(number):
        return (label.affine @ [*np.argwhere(np.asarray(label.dataobj) == number).mean(axis=0), 1])[:3]

    spleen, right_kidney, left_kidney, liver, stomach, aorta = map(centre, (1, 2, 3, 6, 7, 8))
    right, anterior, superior = range(3)  # NIfTI's axes grow towards these
    assert liver[right] > aorta[right] > spleen[right]
    assert right_kidney[right] > aorta[right] > left_kidney[right]
    assert stomach[anterior] > spleen[anterior]
    assert liver[anterior] > aorta[anterior]
    assert liver[superior] > right_kidney[superior]


def test_the_abdomens_split_is_the_usual_one_without_the_lists(tmp_path):
    root = make_abdomen(tmp_path / "raw", train=1, val=1, test=1)
    for name in ("train", "val", "test"):
        (root / "splits" / f"{name}.txt").unlink()
    cases = READERS.get("synapse")(root).cases()
    assert {c.name: c.split for c in cases} == {"case0006": "train", "case0005": "val", "case0008": "test"}


def test_the_files_hold_the_voxels_and_the_spacing(cardiac, abdomen):
    folder = cardiac / "training" / "patient002"
    info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
    assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
    for frame, index in enumerate((int(info["ED"]), int(info["ES"]))):
        image, label, spacing = cardiac_volume(0, 2, frame)
        assert 5 <= spacing[0] <= 10
        assert 1.3 <= spacing[1] <= 1.9
        for suffix, voxels in (("", image), ("_gt", label)):
            assert_stored(folder / f"patient002_frame{index:02d}{suffix}.nii.gz", voxels, spacing)
    image, label, spacing = abdomen_volume(0, 6)
    base = abdomen / "RawData" / "Training"
    assert_stored(base / "img" / "img0006.nii.gz", image, spacing)
    assert_stored(base / "label" / "label0006.nii.gz", label, spacing)


def assert_stored(path, voxels, spacing):
    stored = nib.load(path)
    assert stored.header.get_zooms() == pytest.approx(spacing[::-1])
    assert stored.get_data_dtype() == voxels.dtype
    assert np.array_equal(np.asarray(stored.dataobj).transpose(2, 1, 0), voxels)


def test_the_default_exemplars_hold_every_class():
    case, index = CARDIAC_EXEMPLAR
    label = cardiac_volume(0, int(case[7:10]), 0)[1][index]
    assert case.endswith("_frame01")
    assert all((label == k).sum() > 100 for k in (RV, MYO, LV))
    case, index = ABDOMEN_EXEMPLAR
    label = abdomen_volume(0, int(case[4:]))[1][index]
    assert all((label == k).sum() > 20 for k in ORGANS.values())


@pytest.mark.parametrize("patient", [1, 2, 3, 4])  # one of each pathology
def test_the_heart_is_a_heart(patient):
    _, diastole, spacing = cardiac_volume(0, patient, 0)
    _, systole, _ = cardiac_volume(0, patient, 1)
    middle = diastole[len(diastole) // 2]
    around = ndimage.binary_dilation(middle == LV) & (middle != LV)
    assert set(np.unique(middle[around])) == {MYO}  # the cavity touches nothing but its wall
    ring = ndimage.binary_fill_holes(middle == MYO)
    assert not (ring & (middle == RV)).any()  # the RV is outside the ring ...
    assert (ndimage.binary_dilation(middle == RV) & (middle == MYO)).any()  # ... and attached to it
    cavity = 2 * np.sqrt((middle == LV).sum() / np.pi) * spacing[1]
    wall = np.sqrt(ring.sum() / np.pi) * spacing[1] - cavity / 2
    assert 25 < cavity < 75
    assert 5 < wall < 20
    voxel = np.prod(spacing) / 1000
    assert 30 < (diastole == LV).sum() * voxel < 350  # mL
    assert 40 < (diastole == RV).sum() * voxel < 300
    assert (systole == LV).sum() < 0.9 * (diastole == LV).sum()
    sizes = (diastole == LV).sum((1, 2))
    assert sizes[0] > 1.5 * sizes[-1]  # base to apex
    assert not (diastole[-1] == RV).any()


def test_the_organs_are_where_they_belong():
    _, label, spacing = abdomen_volume(0, 6)
    voxel = np.prod(spacing) / 1000
    millilitres = {name: (label == k).sum() * voxel for name, k in ORGANS.items()}
    assert 600 < millilitres["liver"] < 2000
    assert 40 < millilitres["spleen"] < 300
    assert 40 < millilitres["kidney_l"] < 250
    assert 8 < millilitres["gallbladder"] < 60
    z, y, x = np.transpose([ndimage.center_of_mass(label == k) for k in ORGANS.values()])
    at = {name: (z[i], y[i], x[i]) for i, name in enumerate(ORGANS)}
    assert at["liver"][2] < at["aorta"][2] < at["spleen"][2]  # the patient's right is the picture's left
    assert at["kidney_r"][2] < at["pancreas"][2] < at["kidney_l"][2]
    assert at["stomach"][1] < at["kidney_l"][1]  # the stomach in front
    assert at["kidney_l"][0] < at["spleen"][0]  # the kidney lower


def test_every_default_val_and_test_volume_holds_every_class():
    for patient in range(17, 25):
        for frame in (0, 1):
            assert set(np.unique(cardiac_volume(0, patient, frame)[1])) == {0, RV, MYO, LV}, patient
    for number in (5, 21, 8, 22, 38, 36):
        assert set(ORGANS.values()) <= set(np.unique(abdomen_volume(0, number)[1])), number


@pytest.mark.parametrize("number", [23, 35])
def test_two_cases_have_no_gallbladder_and_every_other_organ(number):
    assert set(ORGANS.values()) - set(np.unique(abdomen_volume(0, number)[1])) == {ORGANS["gallbladder"]}


def test_no_threshold_finds_the_cavity_or_the_aorta():
    for patient in range(1, 9):
        image, label, _ = cardiac_volume(0, patient, 0)
        assert best_interval_dice(image, label == LV) < 0.5, patient
    image, label, _ = abdomen_volume(0, 6)
    assert best_interval_dice(image, label == ORGANS["aorta"]) < 0.5


def test_the_search_for_a_threshold_finds_one_where_there_is_one():
    mask = np.arange(1000) % 10 == 0
    assert best_interval_dice(np.where(mask, 50, np.arange(1000) % 49), mask) > 0.9


def best_interval_dice(image, mask):
    """Return the best Dice that any interval between 64 quantiles of the intensities reaches."""
    cuts = np.unique(np.quantile(image, np.linspace(0, 1, 65)))
    every, hits = np.histogram(image, cuts)[0], np.histogram(image[mask], cuts)[0]
    every, hits = np.r_[0, np.cumsum(every)], np.r_[0, np.cumsum(hits)]
    low, high = np.triu_indices(len(every), 1)
    return (2 * (hits[high] - hits[low]) / (every[high] - every[low] + mask.sum())).max()


def test_a_folder_that_holds_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        make_cardiac(tmp_path, train=1, val=0, test=0)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, voxels, spacing):
        raise KeyboardInterrupt

    monkeypatch.setattr("cmems.datasets.phantom.cardiac.save_nifti", fail)
    with pytest.raises(KeyboardInterrupt):
        make_cardiac(tmp_path / "out", train=1, val=0, test=0)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    assert make_cardiac(tmp_path, train=1, val=0, test=0) == tmp_path
    assert (tmp_path / "splits" / "train.txt").read_text() == "patient001\n"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("new", ["--seed", "-1"], "seed: expected a whole number of at least 0, got -1"),
        ("new", ["--train", "0"], "--train 0"),
        ("file", [], "expected a new or an empty folder, but it is a file"),
        ("file/below", [], "expected a folder that can be made"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(tmp_path, monkeypatch, capsys, out, options, message):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("sys.argv", ["make_phantom.py", "cardiac", str(tmp_path / out), *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPO / "tools" / "make_phantom.py"), run_name="__main__")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
