"""Slices worth painting, before a training and after one."""

import csv

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cmems.apis.pick import SHEET, pick, same_beginning
from cmems.apis.trust import COLUMNS
from cmems.datasets.descriptions import by_distance_to_middle
from cmems.errors import InputError
from cmems.registry import DESCRIPTIONS

AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])


def paint(found):
    image = nib.load(found.mask)
    voxels = np.asarray(image.dataobj).copy()
    voxels[10:12, 10:12, found.slice] = 1
    nib.save(nib.Nifti1Image(voxels, image.affine), found.mask)


@pytest.fixture
def scans(tmp_path):
    """Four patients' scans of 5 slices: a disc that lies in the middle on slice 2 of b alone; c is stored otherwise."""
    folder = tmp_path / "scans"
    folder.mkdir()
    y, x = np.mgrid[:40, :30]
    for n, name in enumerate(("a_1", "a_2", "b_1", "c_1", "d_1")):
        planes = [np.hypot(y - 20, x - 15 - (n - 2) * 3 - (z - 2) * 4) < 6 for z in range(5)]
        affine = AFFINE @ np.diag([-1, 1, 1, 1]) if name == "c_1" else AFFINE
        voxels = np.stack(planes, -1).transpose(1, 0, 2) * 200 + n
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine), folder / f"{name}.nii.gz")
    return folder


def test_the_slice_in_the_middle_comes_first_and_each_patient_once(scans, tmp_path, capsys):
    picks = pick(str(scans), str(tmp_path / "out"), patient="[a-z]")
    assert (picks[0].scan, picks[0].slice, picks[0].depth) == ("b_1", 2, 5)
    assert sorted(found.scan[0] for found in picks) == ["a", "b", "d"]  # c's axes lie otherwise
    assert "the axes lie otherwise than most scans', LPS; no slice is picked of these: c_1" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {SHEET, *(found.mask.name for found in picks)}
    for found in picks:
        mask, scan = nib.load(found.mask), nib.load(scans / found.mask.name)
        assert np.array_equal(mask.affine, scan.affine)
        assert mask.shape == scan.shape
        assert mask.get_data_dtype() == np.uint8
        assert not np.asarray(mask.dataobj).any()
    assert Image.open(tmp_path / "out" / SHEET).size[0] > 3 * 288
    assert [f.scan for f in pick(str(scans), str(tmp_path / "two"), 1, patient="[a-z]", skip=["b_1"])] != ["b_1"]


def test_a_scan_whose_thick_slices_lie_in_another_plane_is_not_left_out(scans, tmp_path):
    coronal = nib.Nifti1Image(np.asarray(nib.load(scans / "c_1.nii.gz").dataobj), AFFINE[[0, 2, 1, 3]])
    nib.save(coronal, scans / "c_1.nii.gz")
    assert sorted(found.scan[0] for found in pick(str(scans), str(tmp_path / "out"), patient="[a-z]")) == [*"abcd"]


def test_what_was_painted_or_drawn_elsewhere_is_left_alone(scans, tmp_path):
    found = pick(str(scans), str(tmp_path / "out"), 1)[0]
    paint(found)
    painted = found.mask.read_bytes()
    pick(str(scans), str(tmp_path / "out"), 1)
    assert found.mask.read_bytes() == painted
    (tmp_path / "out" / SHEET).write_bytes(b"a photograph")
    with pytest.raises(InputError, match=f"{SHEET} is there and was not drawn by cmems"):
        pick(str(scans), str(tmp_path / "out"), 1)
    assert (tmp_path / "out" / SHEET).read_bytes() == b"a photograph"


def test_an_empty_mask_on_the_grid_of_a_scan_before_is_made_anew_and_a_painted_one_named(scans, tmp_path):
    first, other = (pick(str(scans), str(tmp_path / name), 1)[0] for name in ("empty", "painted"))
    paint(other)
    painted, path = other.mask.read_bytes(), scans / first.mask.name
    for away in (np.diag([1, 1, 2, 1]), np.diag([2, 2, 2, 1])):  # of another shape, then elsewhere
        voxels = np.repeat(np.asarray(nib.load(path).dataobj), away[0, 0], 0)
        nib.save(nib.Nifti1Image(voxels, AFFINE @ away), path)
        (again,) = pick(str(path.parent), str(tmp_path / "empty"), 1, skip=sorted({"a_1", "a_2", "d_1", "c_1"}))
        assert nib.load(again.mask).shape == nib.load(path).shape
        assert np.array_equal(nib.load(again.mask).affine, nib.load(path).affine)
        with pytest.raises(InputError, match=r"painted/b_1\.nii\.gz: expected "):
            pick(str(path.parent), str(tmp_path / "painted"), 1, skip=["a_1", "a_2", "d_1", "c_1"])
    assert other.mask.read_bytes() == painted


def test_what_scaling_leaves_is_noted(scans, tmp_path):
    found = pick(str(scans), str(tmp_path / "out"), modality="ct")
    assert all("CT without a voxel below 0 HU, where air" in str(each.notes) for each in found)


def test_after_a_training_the_most_doubtful_scan_comes_first_on_the_slice_where_networks_differ(scans, tmp_path):
    masks = tmp_path / "masks"
    (masks / "doubt").mkdir(parents=True)
    mask, differ = np.zeros((30, 40, 5), np.uint8), np.zeros((30, 40, 5), np.uint8)
    mask[3:9, 3:9, 1:4], mask[5, 5, 1:3] = 1, 2
    differ[3:5, 3:5, 2], differ[3:9, 3:9, 3] = 1, 1  # on slice 3 more, which shows one class only
    for name in ("a_1", "b_1"):
        nib.save(nib.Nifti1Image(mask, AFFINE), masks / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(differ, AFFINE), masks / "doubt" / "a_1_disagreement.nii.gz")
    with open(masks / "trust.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows(
            [COLUMNS, ("b_1", "RV", 0.5, "", 0.9, 1, 1, "", ""), ("a_1", "LV", 0.7, "", 0.9, 1, 1, "", "")]
        )
    found = pick(str(scans), str(tmp_path / "out"), after=str(masks))
    assert [(f.scan, f.slice, f.why) for f in found] == [("b_1", 2, "RV in doubt"), ("a_1", 2, "LV in doubt")]
    table = (masks / "trust.csv").read_text().splitlines()
    (masks / "trust.csv").write_text("\n".join([table[0], *sorted(table[1:]), ""]))  # as a spreadsheet may leave it
    assert [f.scan for f in pick(str(scans), str(tmp_path / "out"), after=str(masks))] == ["b_1", "a_1"]
    (masks / "b_1.nii.gz").rename(tmp_path / "aside.nii.gz")  # to be predicted anew
    assert [f.scan for f in pick(str(scans), str(tmp_path / "out"), after=str(masks))] == ["a_1"]
    (tmp_path / "aside.nii.gz").rename(masks / "b_1.nii.gz")
    other = np.zeros_like(differ)
    other[:9, :9, 1] = 1
    for array, mark in ((other, b"cmems of another model"), (other[..., :3], b"")):
        stale = nib.Nifti1Image(array, AFFINE)
        stale.header["descrip"] = mark
        nib.save(stale, masks / "doubt" / "b_1_disagreement.nii.gz")
        again = pick(str(scans), str(tmp_path / "out"), after=str(masks))
        assert [(f.scan, f.slice) for f in again] == [(f.scan, f.slice) for f in found]
    with pytest.raises(InputError, match=r"trust\.csv: is of other scans, as b_1"):
        pick(str(masks / "doubt"), str(tmp_path / "out"), after=str(masks))
    for skip in ("b_1", "b"):
        found = pick(str(scans), str(tmp_path / "out"), after=str(masks), patient="[a-z]", skip=[skip])
        assert [f.scan for f in found] == ["a_1"]
    for painted in (tmp_path / "out" / "b_1.nii.gz", tmp_path / "labels" / "b_1_seg.nii.gz"):
        painted.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(mask, AFFINE), painted)
        assert [f.scan for f in pick(str(scans), str(tmp_path / "out"), after=str(masks))] == ["a_1"]
        painted.unlink()
    (tmp_path / "labels" / "b_1.nii.gz").write_bytes(b"cut")
    assert [f.scan for f in pick(str(scans), str(tmp_path / "out"), after=str(masks))] == ["b_1", "a_1"]
    with pytest.raises(InputError, match=r"trust\.csv: expected the table that cmems predict writes"):
        pick(str(scans), str(tmp_path / "out"), after=str(tmp_path))


def test_a_slice_that_nothing_tells_from_others_is_the_middle_one(scans, tmp_path):
    masks = tmp_path / "masks"
    (masks / "doubt").mkdir(parents=True)
    full = np.zeros((30, 40, 5), np.uint8)
    full[3:9, 3:9, 1:] = 1
    for name, mask in (("a_1", 0 * full), ("b_1", full)):  # networks that agree on four slices of b
        nib.save(nib.Nifti1Image(mask, AFFINE), masks / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(0 * full, AFFINE), masks / "doubt" / f"{name}_disagreement.nii.gz")
    with open(masks / "trust.csv", "w", newline="") as handle:
        rows = [("a_1", "RV", "", "", "", 0, 0, "not found", ""), ("b_1", "RV", 1, "", 0.9, 1, 1, "", "")]
        csv.writer(handle).writerows([COLUMNS, *rows])
    assert [(f.scan, f.slice) for f in pick(str(scans), str(tmp_path / "out"), after=str(masks))] == [
        ("a_1", 2),
        ("b_1", 2),
    ]
    (masks / "doubt" / "a_1_disagreement.nii.gz").unlink()
    assert [f.slice for f in pick(str(scans), str(tmp_path / "out"), 1, after=str(masks))] == [2]


def test_names_that_may_be_of_one_patient_are_told():
    scans = ["p1_frame01", "p1_frame12", "p2_frame01", "p2_frame12"]
    assert same_beginning(["p1_frame01", "p2_frame01", "p1_frame12"], scans) == ["p1_frame01", "p1_frame12"]
    assert same_beginning(scans[:2], scans) == scans[:2]
    assert same_beginning(["case_1", "case_2"], ["case_1", "case_2", "case_3"]) == same_beginning("ab", "abc") == []


def test_mistakes_are_named_and_a_bad_scan_stops_no_other(scans, tmp_path):
    out = str(tmp_path / "out")
    for options, message in [
        (dict(number=0), "--number: expected an integer of 1 or more"),
        (dict(patient="["), "--patient .*: expected a regular expression"),
        (dict(patient="x"), "--patient x: does not match the beginning of a_1"),
        (dict(patient=r"\d*"), r"--patient \\d\*: does not match the beginning of a_1"),
        (dict(patient="(a_.)?"), "does not match the beginning of b_1"),
        (dict(skip=["z"]), "--skip z: no such scan"),
        (dict(skip=["a_1", "b_1", "d_1", "c_1"], patient="[a-z]"), "every scan is passed over, as --skip names it"),
        (dict(modality="MR"), "--modality: expected mr or ct, got 'MR'"),
        (dict(channel=-1), "--channel: expected 0 or more, got -1"),
    ]:
        with pytest.raises(InputError, match=message):
            pick(str(scans), out, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="the masks would take the names of the scans"):
        pick(str(scans), str(scans))
    (scans / "z.nii.gz").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"z\.nii\.gz: truncated or not a NIfTI file"):
        pick(str(scans), out)
    assert (tmp_path / "out" / SHEET).is_file()


def test_a_scan_whose_mask_would_be_called_as_the_sheet_is_refused(tmp_path):
    for name in ("a", "slices"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / f"scans/{name}.png")
    with pytest.raises(InputError, match=r"scans/slices\.png: its mask would be called as the sheet of slices"):
        pick(str(tmp_path / "scans"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_of_several_channels_one_is_read(scans, tmp_path):
    for path in list(scans.iterdir()):
        path.rename(scans / path.name.replace("_1", "_0000").replace("_2", "_0001"))
    for name in "bcd":
        (scans / f"{name}_0001.nii.gz").write_bytes((scans / f"{name}_0000.nii.gz").read_bytes())
    message = r"scans: 2 channels of a: a_0000\.nii\.gz, a_0001\.nii\.gz, and of 3 more; --channel picks one$"
    with pytest.raises(InputError, match=message):
        pick(str(scans), str(tmp_path / "out"))
    found = pick(str(scans), str(tmp_path / "out"), channel=1)
    assert sorted(each.mask.name for each in found) == ["a.nii.gz", "b.nii.gz", "d.nii.gz"]
    with pytest.raises(InputError, match=r"scans: channel 2 of a: there are 0, 1"):
        pick(str(scans), str(tmp_path / "out"), channel=2)


def test_a_description_tells_no_brightness_and_the_middle_is_the_mean():
    describe = DESCRIPTIONS.build(dict(type="SmallSlice", side=8))
    images = np.random.default_rng(0).random((3, 20, 24)).astype(np.float32)
    first = describe(images, (1, 1, 1))
    np.testing.assert_allclose(first, describe(images * 0.3 + 0.2, (1, 1, 1)), atol=1e-4)
    assert first.shape == (3, 64)
    order = by_distance_to_middle(dict(a=np.array([[0.0], [4.0]]), b=np.array([[1.0]])))
    assert [(name, z) for name, z, _ in order] == [("b", 0), ("a", 0), ("a", 1)]


def test_a_folder_of_folders_is_told_with_what_it_holds(scans, tmp_path):
    with pytest.raises(InputError, match=r"expected scans, NIfTI, NRRD, PNG or DICOM; it holds a folder: scans$"):
        pick(str(tmp_path), str(tmp_path / "out"))
