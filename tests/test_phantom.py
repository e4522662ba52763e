"""The phantoms: repeatable, readable as the real layouts, and not to be had by a threshold."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cmems.datasets.phantom import (
    ABDOMEN_EXEMPLAR,
    CARDIAC_EXEMPLAR,
    abdomen_volume,
    cardiac_volume,
    make_abdomen,
    make_cardiac,
)
from cmems.errors import InputError
from cmems.registry import READERS


@pytest.fixture(scope="module")
def cardiac(tmp_path_factory):
    return make_cardiac(tmp_path_factory.mktemp("phantom") / "cardiac", train=2, val=1, test=1)


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory):
    return make_abdomen(tmp_path_factory.mktemp("phantom") / "abdomen", train=2, val=1, test=1)


def test_a_volume_is_a_function_of_seed_and_patient_alone(cardiac):
    for make, patient in ((lambda s: cardiac_volume(s, 3, 1), 3), (lambda s: abdomen_volume(s, 9), 9)):
        first, again, other = make(0), make(0), make(1)
        assert np.array_equal(first[0], again[0]), patient
        assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])
    stored = nib.load(cardiac / "training/patient002/patient002_frame01.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj).transpose(2, 1, 0), cardiac_volume(0, 2, 0)[0])


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
    assert volume.voxels.min() >= -1024
    assert 4 < volume.spacing[0] < 6
    assert set(np.unique(label.voxels)) == set(range(9))


def test_the_default_exemplars_hold_every_class():
    case, index = CARDIAC_EXEMPLAR
    label = cardiac_volume(0, int(case[7:10]), 0)[1][index]
    assert all((label == k).sum() > 30 for k in (1, 2, 3))
    case, index = ABDOMEN_EXEMPLAR
    label = abdomen_volume(0, int(case[4:]))[1][index]
    assert all((label == k).sum() > 5 for k in (8, 4, 3, 2, 6, 11, 1, 7))


@pytest.mark.parametrize("patient", [1, 2, 3, 4])
def test_the_heart_is_a_heart(patient):
    _, diastole, spacing = cardiac_volume(0, patient, 0)
    _, systole, _ = cardiac_volume(0, patient, 1)
    middle = diastole[len(diastole) // 2]
    around = ndimage.binary_dilation(middle == 3) & (middle != 3)
    assert set(np.unique(middle[around])) == {2}  # the cavity touches nothing but its wall
    voxel = np.prod(spacing) / 1000
    assert 30 < (diastole == 3).sum() * voxel < 350  # mL
    assert (systole == 3).sum() < 0.9 * (diastole == 3).sum()
    sizes = (diastole == 3).sum((1, 2))
    assert sizes[0] > 1.5 * sizes[-1]  # base to apex
    assert (diastole[-1] == 1).sum() < 0.5 * (diastole[0] == 1).sum()


def test_no_threshold_finds_the_cavity_or_the_liver():
    image, label, _ = cardiac_volume(0, 1, 0)
    assert best_threshold_dice(image, label == 3) < 0.6
    image, label, _ = abdomen_volume(0, 6)
    assert best_threshold_dice(image, label == 8) < 0.6


def best_threshold_dice(image, mask):
    """Return the best Dice of any interval of intensities between 24 quantiles."""
    cuts = np.quantile(image, np.linspace(0, 1, 24))
    best = 0
    for low in cuts:
        for high in cuts[cuts > low]:
            found = (image >= low) & (image <= high)
            best = max(best, 2 * (found & mask).sum() / (found.sum() + mask.sum()))
    return best


def test_some_cases_have_no_gallbladder_as_in_the_real_set():
    assert not (abdomen_volume(0, 23)[1] == 4).any()
    assert (abdomen_volume(0, 24)[1] == 4).any()


def test_a_folder_that_holds_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        make_cardiac(tmp_path, train=1, val=0, test=0)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
