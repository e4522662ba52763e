"""What is read of foreign files: where voxels lie, what is refused in one line, which names and splits mean what."""

import errno
import gzip
import io
import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from cmems.apis.labeling import write_labels
from cmems.datasets.intensity import scale_intensity, scaling_notes
from cmems.datasets.masks import masks_content, read_static_labels
from cmems.datasets.names import name_problem
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepare import check, prepare
from cmems.datasets.prepared import MANIFEST, PreparedDataset, file_sha256
from cmems.datasets.readers.acdc import _frames
from cmems.datasets.readers.base import matches
from cmems.datasets.readers.files import check_size, nifti_files, read_out, reading
from cmems.datasets.readers.geometry import (
    is_to_turn,
    known_axes,
    lay_on,
    regular,
    settle_frames,
    settle_spacing,
    spacing_notes,
    turned_array,
)
from cmems.datasets.readers.geometry import turned as reorient
from cmems.datasets.readers.nifti import Volume, nifti_grid, nifti_like, nifti_of, read_nifti
from cmems.errors import InputError
from cmems.locks import folder_lock
from cmems.registry import READERS

A = np.diag([1.5, 1.5, 8.0, 1.0])
SHAPE = (20, 18, 6)
IMAGE = np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16)
LABEL = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
# Offsets of header fields that no library writes otherwise than well.
FIELDS = dict(
    dim=(40, "8h"), datatype=(70, "h"), pixdim=(76, "8f"), offset=(108, "f"), slope=(112, "f"), inter=(116, "f"),
    units=(123, "B"), qform=(252, "h"), sform=(254, "h"), quatern=(256, "3f"), srow_x=(280, "4f"), srow_y=(296, "4f"),
    srow_z=(312, "4f"),
)  # fmt: skip


def save(array, path, affine=A, **fields):
    """Write a NIfTI file; ``fields`` of its header are set byte by byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytearray(nib.Nifti1Image(array, affine).to_bytes())
    for key, value in fields.items():
        struct.pack_into("<" + FIELDS[key][1], raw, FIELDS[key][0], *np.atleast_1d(value))
    path.write_bytes(raw)


def reader(raw, layout="nifti", **options):
    options = dict(classes=["A", "B"], **options) if layout == "nifti" else options
    return READERS.get(layout)(raw, **options)


def read(raw, **options):
    """Read the only case of a plain folder."""
    (case,) = (found := reader(raw, **options)).cases()
    return found.read(case)


def make(raw, out, **options):
    return prepare(reader(raw, **options), out, size=16, workers=1)


def notes(volume):
    return " ".join(f"{sentence} ({detail})" for sentence, detail in volume.notes)


# Where labels lie


def turned(codes):
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return lambda array: apply_orientation(array, turn), inv_ornt_aff(turn, SHAPE)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIL", "ASR"])
def test_labels_stored_along_other_axes_land_on_their_voxels(codes, tmp_path):
    apply, step = turned(codes)
    save(IMAGE, tmp_path / "images/a.nii")
    save(apply(LABEL), tmp_path / "labels/a.nii", A @ step)
    image, label = read(tmp_path)
    assert np.array_equal(label.voxels, LABEL.transpose(2, 1, 0))
    assert label.spacing == image.spacing == (8, 1.5, 1.5)


def test_a_mask_that_is_turned_back_lies_as_the_scan():
    for codes in ("LPS", "SRA", "PIL"):
        there = turned_array(LABEL, "RAS", codes)
        assert np.array_equal(turned_array(there, codes, "RAS"), LABEL)
    assert np.array_equal(turned_array(LABEL, "RAS", "LAS"), LABEL[:, :, ::-1])  # (z, y, x)


def test_labels_cut_out_of_the_scan_are_put_back_and_said(tmp_path):
    moved = A.copy()
    moved[:3, 3] = A[:3, :3] @ (5, 2, 1)
    save(IMAGE, tmp_path / "images/a.nii")
    save(LABEL[5:15, 2:, 1:], tmp_path / "labels/a.nii", moved)
    _, label = read(tmp_path)
    whole = np.zeros(SHAPE, np.uint8)
    whole[5:15, 2:, 1:] = LABEL[5:15, 2:, 1:]
    assert np.array_equal(label.voxels, whole.transpose(2, 1, 0))
    assert "cover a part of the scan" in notes(label)


def shift(*mm):
    return A + np.array([[0, 0, 0, v] for v in (*mm, 0)])


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (LABEL, shift(100, 0, 0), "up to 100 mm away"),
        (LABEL, shift(0, 0, 4), "up to 4 mm away"),  # half a slice
        (LABEL, shift(3, 0, 0), "up to 3 mm away"),  # two whole voxels
        (LABEL, A @ np.diag([-1, 1, 1, 1]), "up to 57 mm away"),  # mirrored about the origin: beside the scan
        (LABEL, A @ np.diag([1.1, 1, 1, 1]), r"up to 2\.85 mm away"),
        (
            LABEL[:-1],
            A,
            r"expected shape \(6, 18, 20\) of a\.nii, got \(6, 18, 19\)",
        ),  # the origin says nothing of a cut
        (LABEL[1:], shift(300, 0, 0), "expected shape"),
    ],
)
def test_labels_that_lie_elsewhere_are_refused(array, affine, message, tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    save(array, tmp_path / "labels/a.nii", affine)
    with pytest.raises(InputError, match=rf"labels/a\.nii: .*{message}"):
        read(tmp_path)


def test_labels_cut_out_at_the_scans_origin_are_told_what_they_lack(tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    save(LABEL[..., :4], tmp_path / "labels/a.nii")
    with pytest.raises(InputError, match="at the same origin, which does not tell where it was cut out; save labels"):
        read(tmp_path)


def test_an_affine_is_usable_where_it_is_finite_not_absurd_and_its_axes_differ():
    for row, column, value, usable in (
        (0, 3, 0.0, True), (0, 3, 1e11, True), (0, 3, 1e13, False), (1, 1, np.nan, False), (2, 3, np.inf, False),
        (2, 2, 0.0, False), (2, 2, 1e-6, True), (0, 0, 0.0, False),
    ):  # fmt: skip
        affine = A.copy()
        affine[row, column] = value
        assert regular(affine) == usable, (row, column, value)


def test_rounded_affines_and_other_units_are_the_same_place(tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    for affine, fields in (
        (A + 1e-4 * (np.arange(16).reshape(4, 4) == 3), {}),
        (A * [[1e3]] * 3 + [[1]], dict(units=3)),
    ):
        save(LABEL, tmp_path / "labels/a.nii", affine if not fields else np.diag([1500, 1500, 8000, 1]), **fields)
        assert np.array_equal(read(tmp_path)[1].voxels, LABEL.transpose(2, 1, 0))


def test_the_qform_places_labels_where_only_that_agrees(tmp_path):
    save(IMAGE, tmp_path / "images/a.nii", qform=1, srow_x=(3, 0, 0, 50))
    save(LABEL, tmp_path / "labels/a.nii")
    label = read(tmp_path)[1]
    assert np.array_equal(label.voxels, LABEL.transpose(2, 1, 0))
    assert "sform and qform disagree on whether the labels lie on the scan; they are taken to (one" in notes(label)


def test_labels_that_one_of_their_headers_puts_elsewhere_are_said(tmp_path):
    for mm, said in ((100, True), (0, False)):
        save(IMAGE, tmp_path / "images/a.nii", qform=1)
        save(LABEL, tmp_path / "labels/a.nii", qform=1, srow_x=(1.5, 0, 0, A[0, 3] + mm))
        label = read(tmp_path)[1]
        assert np.array_equal(label.voxels, LABEL.transpose(2, 1, 0))
        assert ("lie on the scan; they are taken to (one says up to 100 mm away)" in notes(label)) == said
        assert bool(label.notes) == said


# How headers are settled, and labels laid on scans, worked by hand


def grid(affine, shape=(6, 10, 12), frames=True, names=None, voxels=None):
    """A volume of shape (z, y, x) where ``affine`` puts it."""
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0)[::-1].tolist())
    voxels = np.zeros(shape, np.uint8) if voxels is None else voxels
    return Volume(voxels, spacing, affine, (affine,) if frames else (), names=names)


PLACED = np.diag([1.5, 2.0, 4.0, 1.0])
PLACED[:3, 3] = -20, 10, 5
PAINTED = np.zeros((6, 10, 12), np.uint8)  # (z, y, x)
PAINTED[2, 3:6, 4:9], PAINTED[3, 3, 4] = 1, 2


def moved(x, y, z, affine=PLACED):
    """The affine of what begins at a voxel of the scan."""
    step = np.eye(4)
    step[:3, 3] = x, y, z
    return affine @ step


def leaning(degrees, first=0, second=1):
    """An affine whose one axis leans towards another."""
    affine = np.eye(4)
    affine[first, second], affine[second, second] = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return affine @ np.diag([1.5, 2.0, 4.0, 1.0])


def test_axes_may_lean_by_a_degree_and_must_differ_by_more_than_a_few_thousandths():
    for first, second in ((0, 1), (2, 0), (1, 2)):
        for degrees, said in ((0.9, ""), (1.1, "1.1 degrees off"), (1.6, "1.6 degrees off"), (40, "40 degrees off")):
            frames, found = settle_frames("a", leaning(degrees, first, second), None)
            assert len(frames) == 1
            assert [detail for _, detail in found] == [said] * bool(said)
    flat = leaning(89.99)  # two axes of one direction, and of the lengths of three
    assert not regular(flat)
    assert regular(leaning(89))
    with pytest.raises(InputError, match=r"directions, got 1\.5 2 0 0; 0 0\.000349066 0 0; 0 0 4 0$"):
        settle_frames("a", flat, None)
    assert settle_frames("a", flat, PLACED)[0] == (PLACED,)
    long = np.diag([1e-8, 1.0, 1e6, 1.0])  # a length each, however small or large
    assert regular(long)
    assert regular(long[[1, 0, 2, 3]])
    long[0, 0] = 1e-10
    assert not regular(long)


@pytest.mark.parametrize(
    ("pixdim", "steps", "spacing", "said"),
    [
        ((1.5, 2, 4), (1.513, 2, 4), (1.5, 2, 4), ""),  # by less than a hundredth
        ((1.5, 2, 4), (1.5, 2, 4.1), (1.5, 2, 4), "give different voxel sizes; pixdim's is taken (1.5 x 2 x 4 and 1"),
        ((2, 2, 2), (3, 3, 3), (2, 2, 2), "pixdim's is taken (2 x 2 x 2 and 3 x 3 x 3 mm)"),
        ((2, 2, 2), (1, 1, 1), (2, 2, 2), ""),
        ((1, 1, 1), (3, 2, 2), (3, 2, 2), "1 mm or none; the affine's size is taken (1 x 1 x 1 and 3 x 2 x 2 mm)"),
        ((1, 1, 2), (3, 2, 2), (1, 1, 2), "pixdim's is taken"),
        ((2e9, 2, 4), (1.5, 2, 4), (1.5, 2, 4), "the affine's size is taken (2e+09 x 2 x 4"),
        ((-1.5, 2, 4), (1.5, 2, 4), (1.5, 2, 4), "the affine's size is taken"),
        ((-1.5, 2, -4), None, (1.5, 2, 4), ""),
        ((0, 2, np.inf), None, (1, 2, 1), "no voxel size; 1 mm is taken (pixdim is 0 x 2 x inf)"),
        ((0.01, 0.5, 100), None, (0.01, 0.5, 100), ""),
        ((0.0099, 0.5, 100), None, (0.0099, 0.5, 100), "voxels below 0.01 mm or above 100 mm"),
        ((0.02, 0.5, 100.1), None, (0.02, 0.5, 100.1), "may be wrong (0.02 x 0.5 x 100.1 mm)"),
    ],
)  # fmt: skip
def test_a_voxel_size_is_pixdims_unless_that_is_none(pixdim, steps, spacing, said):
    frames = () if steps is None else (np.diag([*steps, 1.0])[[1, 2, 0, 3]],)  # whatever directions it has
    found, more = settle_spacing(np.array(pixdim, float), frames)
    assert found.tolist() == list(spacing)
    text = " ".join(f"{sentence} ({detail})" for sentence, detail in more)
    assert said in text
    assert len(more) == bool(said)


def test_a_pixel_is_longer_than_slices_are_apart_from_half_as_long_again_on():
    for spacing, said in (
        ((2, 3, 1), False), ((2, 3.1, 1), True), ((2, 1, 3.1), True), ((2, 2.9, 2.9), False), ((8, 1, 1), False),
        ((0.5, 0.7, 0.1), False), ((0.5, 0.1, 0.8), True),
    ):  # fmt: skip
        assert bool(spacing_notes(spacing)) == said, spacing


def test_what_a_viewer_saves_around_the_painted_may_jut_out_and_a_whole_mask_may_not():
    scan = grid(PLACED)
    wide = np.pad(PAINTED, ((1, 2), (2, 1), (3, 2)))
    for names in (None, {1: "A"}):
        laid = lay_on(grid(moved(-3, -2, -1), names=names, voxels=wide), scan, "label", Path("scan"))
        assert np.array_equal(laid.voxels, PAINTED)
        assert laid.spacing == scan.spacing
        assert "(9, 13, 17) of (6, 10, 12)" in notes(laid)
    beside = grid(moved(0, 2, 0), voxels=PAINTED)  # of the scan's size: it was drawn on a scan that lies elsewhere
    with pytest.raises(InputError, match=r"the place of scan, .* up to 4 mm away \(affine axes RAS, the scan's RAS\)"):
        lay_on(beside, scan, "label", Path("scan"))
    laid = lay_on(beside._replace(names={1: "A"}), scan, "label", Path("scan"))
    assert np.array_equal(laid.voxels, np.roll(PAINTED, 2, axis=1))


def test_a_mask_lies_in_the_scan_to_its_last_voxel_and_no_further():
    scan = grid(PLACED)
    part = np.random.default_rng(0).integers(1, 3, (4, 7, 8), dtype=np.uint8)
    for x, y, z in ((4, 0, 0), (0, 3, 0), (0, 0, 2), (4, 3, 2), (1, 2, 1)):
        laid = lay_on(grid(moved(x, y, z), voxels=part), scan, "label", Path("scan"))
        there = np.pad(part, ((z, 2 - z), (y, 3 - y), (x, 4 - x)))
        assert np.array_equal(laid.voxels, there)
    for place in ((5, 1, 1), (1, 4, 1), (1, 1, 3), (-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        with pytest.raises(InputError, match=r"^label: expected shape \(6, 10, 12\) of scan, got \(4, 7, 8\)$"):
            lay_on(grid(moved(*place), voxels=part), scan, "label", Path("scan"))
    empty = lay_on(grid(moved(1, 2, 1), voxels=part * 0), scan, "label", Path("scan"))
    assert not empty.voxels.any()
    assert empty.voxels.shape == (6, 10, 12)
    with pytest.raises(InputError, match="at the same origin"):  # a part whose place nobody stated but the scan's own
        lay_on(grid(PLACED, voxels=part), scan, "label", Path("scan"))


def test_what_lies_between_voxels_is_told_from_what_has_others():
    scan, part = grid(PLACED), np.ones((4, 7, 8), np.uint8)

    def refusal(affine, **options):
        with pytest.raises(InputError) as caught:
            lay_on(grid(affine, voxels=part, **options), scan, "label", Path("scan"))
        return str(caught.value)

    # 0.2 of 1.5 mm, 0.3 of 2 mm, a quarter of 4 mm: the root of 0.09 + 0.36 + 1
    assert "lies between the voxels of scan, 1.2 mm off its grid" in refusal(moved(2.2, -0.3, 0.25))
    assert "off its grid" not in refusal(moved(-4.05, 1, 1))
    aside = moved(2.2, 1.3, 1.25)
    other = aside @ np.diag([0.5, 1, 1, 1])
    assert refusal(other).endswith("got (4, 7, 8), voxels of 4 x 2 x 0.75 mm beside 4 x 2 x 1.5")
    turn, angle = np.eye(4), np.deg2rad(2)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert refusal(aside @ turn).startswith("label: expected shape (6, 10, 12) of scan, got (4, 7, 8)")
    assert refusal(aside, frames=False) == "label: expected shape (6, 10, 12) of scan, got (4, 7, 8)"


def test_how_far_apart_two_headers_put_a_mask_is_said_in_mm():
    turn = np.eye(4)
    turn[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
    here, there = turn @ PLACED, turn @ PLACED
    there[:3, 3] += 0, 0, 30
    label = grid(there, voxels=PAINTED)
    for frames, said in (((here, there), "one says up to 30 mm away"), ((there, here), "")):
        laid = lay_on(label, grid(here)._replace(frames=frames), "label", Path("scan"))
        assert np.array_equal(laid.voxels, PAINTED)
        assert len(laid.notes) == bool(said)
        assert said in notes(laid)
    told = label._replace(frames=(here, there), notes=(("its own", ""),))
    laid = lay_on(told, grid(there), "label", Path("scan"))
    assert [sentence for sentence, _ in laid.notes][0] == "its own"
    assert "one says up to 30 mm away" in notes(laid)


def test_a_scan_that_is_turned_lies_where_nibabel_puts_it():
    """Unequal sides, voxel sizes and directions, none of which may be taken for another."""
    oblique = np.eye(4)
    oblique[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
    scan = grid(oblique @ PLACED, voxels=PAINTED)
    image = nib.Nifti1Image(PAINTED.transpose(2, 1, 0), scan.affine)
    for codes in ("LPS", "ASR", "IRP"):
        found = reorient(scan, codes)
        expected = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))
        assert np.array_equal(found.voxels, np.asarray(expected.dataobj).transpose(2, 1, 0))
        np.testing.assert_allclose(found.affine, expected.affine)
        np.testing.assert_allclose(found.spacing, expected.header.get_zooms()[::-1])
        assert found.frames == (found.affine,)
        assert known_axes(found) == codes


@pytest.mark.parametrize(
    ("spacing", "codes", "turns"),
    [
        ((8, 1.5, 2), "RAS", False),  # as it lies
        ((8, 1.5, 2), "LPS", True),
        ((8, 1.5, 2), "ARS", True),
        ((8, 1.5, 2), "ASR", False),  # slices of 2 mm, and pixels of 8
        ((8, 1.5, 2), "RSA", False),
        ((2, 2.5, 2), "RSA", True),
        ((1.5, 8, 2), "ASR", True),  # its own slices run across the thick axis already
        ((8, 1.5, 2), None, False),
    ],
)
def test_a_scan_is_turned_unless_its_slices_would_run_across_its_thick_axis(spacing, codes, turns):
    affine = np.diag([*spacing[::-1], 1.0])
    assert is_to_turn(grid(affine), codes) == turns
    assert not is_to_turn(grid(affine, frames=False), codes)


# What a header says


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "spacing", "said"),
    [
        ({}, (8, 1.5, 1.5), ""),
        (dict(pixdim=(1, 1.5, 1.5, 0, 0, 0, 0, 0)), (8, 1.5, 1.5), "the affine's size is taken"),
        (dict(pixdim=(1, 1, 1, 1, 0, 0, 0, 0)), (8, 1.5, 1.5), "the affine's size is taken"),
        (dict(pixdim=(1, 1.5, 1.5, NAN, 0, 0, 0, 0)), (8, 1.5, 1.5), "the affine's size is taken"),
        (dict(pixdim=(1, 1.5, 1.5, 5, 0, 0, 0, 0)), (5, 1.5, 1.5), "pixdim's is taken"),
        (dict(srow_x=(-1, 0, 0, 0), srow_y=(0, -1, 0, 0), srow_z=(0, 0, 1, 0)), (8, 1.5, 1.5), ""),  # ACDC's
        (dict(sform=0, pixdim=(1, 0, 1.5, 8, 0, 0, 0, 0)), (8, 1.5, 1), "no voxel size; 1 mm is taken"),
        (dict(sform=0, pixdim=(1, 0.02, 1.5, 100, 0, 0, 0, 0)), (100, 1.5, 0.02), ""),
        (dict(sform=0, pixdim=(1, 1, 1.5, 100.5, 0, 0, 0, 0)), (100.5, 1.5, 1), "unit may be wrong"),
        (dict(units=3), (0.008, 0.0015, 0.0015), "microns"),
        (dict(units=1), (8000, 1500, 1500), "unit may be wrong"),
        (dict(units=1, pixdim=(1, 0.0015, 0.0015, 0.008, 0, 0, 0, 0), sform=0), (8, 1.5, 1.5), "metres"),
        (dict(sform=2, qform=1, srow_z=(0, 0, 0, 0)), (8, 1.5, 1.5), "the sform is unusable"),
        (dict(srow_y=(0, 1.5, 1, 0)), (8, 1.5, 1.5), "not at right angles, as of a tilted gantry"),
        (dict(srow_y=(0, 1.5, 0.1, 0)), (8, 1.5, 1.5), ""),
        (dict(qform=1, quatern=(0.9, 0.9, 0.9)), (8, 1.5, 1.5), ""),  # no rotation; the sform is one
        (dict(qform=1, srow_x=(-1.5, 0, 0, 0)), (8, 1.5, 1.5), "sform and qform give the axes different directions"),
    ],
)
def test_voxel_sizes_follow_one_rule_and_are_said_where_headers_contradict_themselves(fields, spacing, said, tmp_path):
    save(IMAGE, tmp_path / "a.nii", **fields)
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-6)
    assert said in notes(volume)
    assert bool(said) == bool(volume.notes)


@pytest.mark.parametrize(
    ("fields", "factor", "said"),
    [
        ({}, 1, ""),
        (dict(units=10), 1, ""),  # mm and seconds
        (dict(units=11), 0.001, "microns"),
        (dict(units=9), 1000, "metres"),
        (dict(units=0), 1, ""),
    ],
)
def test_a_unit_holds_for_the_whole_affine_and_that_of_time_for_none_of_it(fields, factor, said, tmp_path):
    affine = PLACED.copy()
    affine[:2, :2] = [[0, 2], [1.5, 0]]
    scale = np.array([*[factor] * 3, 1])[:, None]
    voxels, path = np.zeros((3, 4, 5), np.int16), tmp_path / "a.nii"
    save(voxels, path, affine, **fields)
    for found in (read_nifti(path), nifti_grid(path)):
        np.testing.assert_allclose(found.affine, affine * scale)
        np.testing.assert_allclose(found.spacing, np.array([4, 2, 1.5]) * factor)
        assert found.voxels.shape == (5, 4, 3)
        assert said in notes(found)
    save(voxels, path, affine, sform=0, **fields)  # nothing is known but voxel sizes: nibabel's place, in mm
    bare = read_nifti(path)
    assert bare.frames == ()
    np.testing.assert_allclose(bare.affine, nib.load(path).affine * scale)
    save(voxels, path, affine, sform=0, pixdim=(1, NAN, 2, 4, 0, 0, 0, 0), **fields)
    np.testing.assert_allclose(read_nifti(path).affine, np.diag([1.0, 2 * factor, 4 * factor, 1]))


def test_a_lone_slice_is_a_volume_and_five_axes_are_none(tmp_path):
    save(IMAGE[..., 2], tmp_path / "flat.nii")
    assert nifti_grid(tmp_path / "flat.nii").voxels.shape == (1, 18, 20)
    assert np.array_equal(read_nifti(tmp_path / "flat.nii").voxels, IMAGE[None, ..., 2].transpose(0, 2, 1))
    save(np.zeros((5, 4, 3, 2, 2), np.int16), tmp_path / "five.nii")
    with pytest.raises(InputError, match=r"five\.nii: expected a 3-D volume, got shape \(5, 4, 3, 2, 2\)$"):
        read_nifti(tmp_path / "five.nii", channel=0)
    save(np.stack([IMAGE, IMAGE + 1], -1), tmp_path / "four.nii")
    four = nifti_grid(tmp_path / "four.nii").voxels
    assert four.shape == (6, 18, 20)
    assert not four.any()
    assert [read_nifti(tmp_path / f"{name}.nii", 0).channels for name in ("four", "flat")] == [2, 1]


def test_a_file_that_was_cut_off_says_how_many_bytes_it_holds(tmp_path):
    save(IMAGE, tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[:-10])
    said = r"a\.nii: truncated: shape \(20, 18, 6\) is 4,320 bytes, of which it holds 4,310$"
    with pytest.raises(InputError, match=said):
        read_nifti(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes(whole + bytes(10))
    assert np.array_equal(read_nifti(tmp_path / "a.nii").voxels, IMAGE.transpose(2, 1, 0))


def test_a_written_mask_has_its_own_numbers_and_the_place_that_the_scan_was_read_at(tmp_path):
    mask, path = LABEL.transpose(2, 1, 0), tmp_path / "scan.nii"

    def written(scan):
        (tmp_path / "mask.nii").write_bytes(nifti_like(scan, mask))
        found = nib.load(tmp_path / "mask.nii")
        assert np.array_equal(found.get_fdata(), LABEL)
        assert np.array_equal(np.asarray(found.dataobj.get_unscaled()), LABEL)
        return found

    save(IMAGE, path, PLACED, slope=2, inter=5, sform=2, qform=1, srow_z=(0, 0, 0, 0))  # the sform is unusable
    found = written(path)
    np.testing.assert_allclose(found.affine, PLACED, atol=1e-6)
    assert found.header.get_xyzt_units()[0] == "mm"
    fine = PLACED.copy()
    fine[:3, 0] = 1.1, 0, 0  # which float32 does not hold
    image = nib.Nifti2Image(IMAGE, fine)
    nib.save(image, tmp_path / "two.nii")
    found = written(tmp_path / "two.nii")
    assert isinstance(found, nib.Nifti2Image)
    assert np.array_equal(found.affine, fine)
    assert found.header["pixdim"][1] == 1.1


def test_names_that_differ_in_capitals_alone_are_refused(tmp_path):
    for name in ("a.nii", "A.nii", "b.nii"):
        save(IMAGE, tmp_path / "images" / name)
    with pytest.raises(InputError, match=r"2 cases differ in capitals alone: A, a; expected one$"):
        make(tmp_path, tmp_path / "out")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_a_raw_folder_may_be_called_in_no_unicode(tmp_path):
    raw = tmp_path / os.fsdecode(b"sc\xe4ns")
    save(IMAGE, raw / "images/a.nii")
    assert make(raw, tmp_path / "out").name == "sc\\udce4ns"


def test_scans_of_several_orientations_become_one_and_are_said(tmp_path):
    for k, codes in enumerate(("RAS", "AIL", "PSR")):
        apply, step = turned(codes)
        save(apply(IMAGE), tmp_path / f"images/{codes}.nii", A @ step)
        save(apply(LABEL), tmp_path / f"labels/{codes}.nii", A @ step)
        if k == 0:
            alone = make(tmp_path, tmp_path / "alone")
    data = make(tmp_path, tmp_path / "out")
    assert data.manifest["axes"] == "RAS"  # of equally common ones, that of the thick slices
    for case in data.cases("train"):
        rows = slice(*data.case(case)["slices"])
        assert np.array_equal(data.train_images()[rows], alone.train_images())
        assert np.array_equal(data.train_labels()[rows], alone.train_labels())
        assert data.case(case)["spacing"] == [8, 1.5, 1.5]
    said = {sentence for case in data.manifest["cases"].values() for sentence, _ in case["notes"]}
    assert said == {"orientations differ; turned to RAS", "the same voxels as another case's"}  # however stored


def test_scans_that_all_lie_alike_are_turned_to_nothing(tmp_path):
    for name in "abc":
        save(IMAGE, tmp_path / f"images/{name}.nii", *([A @ turned("LPS")[1]] if name == "c" else []))
    found = reader(tmp_path)
    cases = found.cases()
    assert found.settle_axes(cases[:2]) == {"RAS": 2}
    assert (found.axes, found.usual) == (None, "RAS")
    assert found.settle_axes(cases) == {"RAS": 2, "LPS": 1}
    assert (found.axes, found.usual, found.settings()["axes"]) == ("RAS", "RAS", "RAS")


@pytest.mark.parametrize("header", [{}, dict(sform=0), dict(sform=0, pixdim=(1, 3, 3, 3, 0, 0, 0, 0))])
def test_masks_of_a_folder_lie_as_preparing_them_lays_them(header, tmp_path, capsys):
    """Of scans of several orientations, whose own voxels have no place in the last two."""
    for codes in ("RAS", "LPS", "LAI", "AIL", "PSR"):
        apply, step = turned(codes)
        save(apply(IMAGE), tmp_path / f"raw/images/{codes}.nii", np.eye(4) @ step)
        save(apply(LABEL), tmp_path / f"raw/labels/{codes}.nii", np.eye(4) @ step, **header)
    data = prepare(found := reader(tmp_path / "raw"), tmp_path / "out", size=16, workers=1)
    assert data.manifest["axes"] != data.case("LPS")["notes"][0][1].removeprefix("stored as ")
    (tmp_path / "turned").mkdir()
    for case in found.cases():  # as a round writes them
        _, label = found.read(case)
        write_labels(tmp_path / f"turned/{case.name}.nii.gz", data.case(case.name), label.voxels, "")
    for folder in ("raw/labels", "turned"):
        rows, labels = read_static_labels(data, tmp_path / folder)
        assert len(rows) == len(data.train_labels())
        assert np.array_equal(labels, data.train_labels()[rows]), folder
    told = f"{tmp_path / 'raw/labels'}: the mask's header does not say where it lies; it is taken to lie as its scan"
    assert (told in capsys.readouterr().err) == bool(header)
    for case in data.manifest["cases"].values():
        del case["notes"]
    if header:
        with pytest.raises(InputError, match="LPS.nii: its header does not say where it lies, and manifest.json does"):
            read_static_labels(data, tmp_path / "raw/labels")
    else:
        assert np.array_equal(read_static_labels(data, tmp_path / "raw/labels")[1], data.train_labels())


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([1.5, 1.5, 8, 1]), np.diag([-1.5, -1.5, 8, 1])])
def test_masks_of_a_folder_lie_as_their_scans_where_those_tell_no_place(affine, tmp_path):
    save(IMAGE, tmp_path / "raw/images/a.nii", sform=0)
    save(LABEL, tmp_path / "raw/labels/a.nii", affine)
    data = make(tmp_path / "raw", tmp_path / "out")
    assert np.array_equal(read_static_labels(data, tmp_path / "raw/labels")[1], data.train_labels())


def test_masks_that_teach_little_or_are_not_there_are_told(tmp_path, capsys):
    for name in "abcd":
        save(IMAGE, tmp_path / f"raw/images/{name}.nii")
        save(LABEL, tmp_path / f"raw/labels/{name}.nii")
    data, folder = make(tmp_path / "raw", tmp_path / "out"), tmp_path / "masks"
    cases = data.cases("train")
    save(LABEL * 0, folder / f"{cases[0]}.nii")
    save(LABEL * 0 + 255, folder / f"{cases[1]}.nii")
    read_static_labels(data, folder)
    told = capsys.readouterr().err
    assert f"{folder}: the masks of {cases[0]} hold no organ: all of them is learned as background" in told
    assert f"{folder}: the masks of {cases[1]} are 255, unknown, throughout: they teach nothing" in told
    assert f"{folder}: no mask holds {', '.join(data.classes)}" in told
    assert ("training cases; the others' slices are left out" in told) == (len(cases) > 2)
    for path in folder.iterdir():
        path.rename(folder / f"{path.stem}.nrrd")
    with pytest.raises(InputError, match=r"(?s)found none.*nrrd"):
        read_static_labels(data, folder)
    for source in (dict(type="StaticLabels"), dict(type="StaticLabels", folder=3)):
        with pytest.raises(InputError, match=r"StaticLabels: folder: expected a folder of masks, got (None|3)"):
            masks_content(data, dict(static=source))


def test_masks_of_a_folder_carry_the_affine_of_one_millimetre_of_their_scans(tmp_path):
    part = np.eye(4)
    part[2, 3] = 2
    save(IMAGE, tmp_path / "raw/images/a.nii", np.eye(4), pixdim=(1, 1.5, 1.5, 8, 0, 0, 0, 0))
    save(LABEL[..., 2:5], tmp_path / "raw/labels/a.nii", part, pixdim=(1, 1.5, 1.5, 8, 0, 0, 0, 0))
    data = make(tmp_path / "raw", tmp_path / "out")
    assert not data.case("a")["axes_known"]
    assert np.array_equal(read_static_labels(data, tmp_path / "raw/labels")[1], data.train_labels())


def test_slices_that_lie_oblique_stay_slices_whatever_letters_their_axes_have(tmp_path):
    """Short-axis scans of hearts: ten degrees from patient to patient, and the slices' axis has another letter."""
    for name, degrees in dict(a=40, b=42, c=50).items():
        normal = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees)), 0])
        affine = np.eye(4)
        affine[:3, :3] = np.stack([np.cross(normal, (0, 0, 1)) * 1.5, (0, 0, -1.5), normal * 8], 1)
        save(IMAGE + ord(name), tmp_path / f"images/{name}.nii", affine)
        save(LABEL, tmp_path / f"labels/{name}.nii", affine)
    data = make(tmp_path, tmp_path / "out")
    assert [data.case(name)["orientation"] for name in "abc"] == ["PIR", "PIR", "RIA"]
    assert [data.case(name)["shape"] for name in "abc"] == [[6, 18, 20]] * 3
    said = "not turned to PIR, as most scans lie: its slices would run across its thick axis"
    assert [said in str(data.case(name)["notes"]) for name in "abc"] == [False, False, True]
    ready = Preparation.of(data).ready(read_nifti(tmp_path / "images/c.nii"), "c")
    assert (ready.turn, ready.odd) == (None, None)
    assert said in str(ready.notes)


def test_a_scan_that_tells_no_axes_beside_others_that_do_is_said(tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    save(IMAGE + 1, tmp_path / "images/b.nii", sform=0)
    cases = make(tmp_path, tmp_path / "out").manifest["cases"]
    untold = ["its header tells no axes; it is taken to lie as the other scans", "RAS"]
    assert [untold in cases[name]["notes"] for name in "ab"] == [False, True]


def test_slices_across_the_thick_axis_are_said(tmp_path):
    apply, step = turned("SRA")
    save(apply(IMAGE), tmp_path / "images/a.nii", A @ step)
    data = make(tmp_path, tmp_path / "out")
    assert "slices run across the thick axis" in str(data.case("a")["notes"])
    ready = Preparation.of(data).ready(read_nifti(tmp_path / "images/a.nii"), "a")  # in prediction too
    assert "slices run across the thick axis" in str(ready.notes)
    save(IMAGE, tmp_path / "images/a.nii", np.diag([1.0, 4.0, 8.0, 1.0]))
    (case,) = (found := reader(tmp_path)).cases()
    assert found.stored_axes(case) == ("RAS", 2.0)  # the thicker side of a pixel counts


def test_a_written_mask_says_the_scans_voxel_sizes_where_nothing_else_is_known(tmp_path):
    """Also of several axes, without a place, and with no display range of the scan's."""
    save(IMAGE, tmp_path / "place.nii", np.diag([1.0, 2.0, 3.0, 1.0]))
    place, file = read_nifti(tmp_path / "place.nii")._replace(frames=()), tmp_path / "mask.nii"
    for voxels, zooms in ((place.voxels, (1, 2, 3)), (np.zeros((2, *place.voxels.shape), np.uint16), (1, 2, 3, 1))):
        file.write_bytes(nifti_of(place, voxels))
        header = nib.load(file).header
        assert header.get_zooms() == zooms
        assert (header["qform_code"], header["sform_code"], bytes(header["descrip"]).strip(b"\0")) == (0, 0, b"")
    scan = nib.Nifti1Image(IMAGE, A)
    scan.header["cal_min"], scan.header["cal_max"], scan.header["descrip"] = 10, 300, b"by a scanner"
    nib.save(scan, tmp_path / "scan.nii")
    for words, said in (({}, b"by a scanner"), (dict(description="by CMEMS"), b"by CMEMS")):
        file.write_bytes(nifti_like(tmp_path / "scan.nii", place.voxels.astype(np.uint8), **words))
        header = nib.load(file).header
        assert (header["cal_min"], header["cal_max"], bytes(header["descrip"]).strip(b"\0")) == (0, 0, said)


# What is no scan


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
ODD = {
    "colour": (dict(array=RGB), "expected one real number per voxel, got colour"),
    "complex": (dict(array=IMAGE.astype(np.complex64)), "got complex voxels"),
    "unknown type": (dict(datatype=1), "truncated or not a NIfTI file"),
    "zero rows": (dict(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), "three independent directions, got 0 0 0 0; 0"),
    "NaN rows": (dict(srow_x=(NAN, 0, 0, 0)), "three independent directions, got nan"),
    "no slices": (dict(dim=(3, 20, 18, 0, 1, 1, 1, 1)), "expected axes of one voxel or more|truncated"),
    "negative": (dict(dim=(3, 20, -18, 6, 1, 1, 1, 1)), "expected axes of one voxel or more|truncated"),
    "absurd": (dict(dim=(3, 32000, 32000, 32000, 1, 1, 1, 1)), "truncated: shape .* is 65,536,000,000,000 bytes"),
    "offset": (dict(offset=1e9), "truncated|inside the file"),
    "NaN offset": (dict(offset=NAN), "truncated|inside the file"),
    "slope": (dict(slope=float("inf")), "expected a finite slope and intercept"),
    "channels": (dict(array=np.zeros((8, 8, 2, 3), np.int16)), "--channel N of cmems prepare and pick reads one"),
    "1-D": (dict(array=np.zeros(8, np.int16)), "expected a 3-D volume"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_ends_in_one_line_that_names_it(kind, tmp_path):
    given, message = ODD[kind]
    save(**dict(dict(array=IMAGE, path=tmp_path / "images/odd.nii"), **given))
    with pytest.raises(InputError, match=rf"^\S*odd\.nii: .*({message})") as caught:
        make(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_any_bytes_end_in_a_volume_or_in_one_line(tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "odd.nii"
    whole = np.frombuffer(nib.Nifti1Image(IMAGE, A).to_bytes(), np.uint8)
    for _ in range(60):
        content = whole.copy()
        content[random.integers(0, 352, 6)] = random.integers(0, 256, 6)
        path.write_bytes(content[: random.integers(1, len(whole)) if random.random() < 0.3 else None].tobytes())
        try:
            said = [f"{path}: "] * (read_nifti(path).voxels.ndim == 3)
        except InputError as error:
            said = str(error).splitlines()
        assert len(said) == 1
        assert said[0].startswith(f"{path}: ")


def packed(content, flip=None, end=None):
    """Return a gzip stream that still inflates with a bit of it flipped, as its blocks are stored."""
    stream = bytearray(gzip.compress(content, compresslevel=0, mtime=0))
    if flip is not None:
        stream[flip] ^= 1
    return bytes(stream[:end])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (dict(flip=1000), "CRC check failed"),
        (dict(flip=-8), "CRC check failed"),
        (dict(flip=-4), "Incorrect length"),
        (dict(end=-8), "Compressed file ended"),
    ],
)
def test_a_compressed_scan_is_compared_with_its_checksum(damage, message, tmp_path):
    content = nib.Nifti1Image(IMAGE, A).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(packed(content, **damage))
    with pytest.raises(InputError, match=rf"a\.nii\.gz: truncated or not a NIfTI file \({message}") as caught:
        read_nifti(tmp_path / "a.nii.gz")
    assert "\n" not in str(caught.value)


def test_what_follows_compressed_voxels_is_read_but_not_without_end(tmp_path):
    content, path = nib.Nifti1Image(IMAGE, A).to_bytes(), tmp_path / "a.nii.gz"
    path.write_bytes(packed(content + b"\0" * 5000) + b"\0" * 512)
    assert np.array_equal(read_nifti(path).voxels, IMAGE.transpose(2, 1, 0))
    path.write_bytes(gzip.compress(content + b"\0" * (1 << 22)))
    with pytest.raises(InputError, match=r"a\.nii\.gz: damaged: expected 4,320 bytes of voxels"):
        read_nifti(path)


def test_a_file_may_claim_what_it_can_hold_and_no_more():
    """Compressed, a thousand times its size, as zeros are."""
    zeros = len(gzip.compress(b"\0" * (1 << 22)))
    for shape, itemsize, held, packed in (((4, 5, 6), 2, 240, False), ((1, 2048, 2048), 1, zeros, True)):
        check_size("a", shape, itemsize, held, packed)
    for shape, held, packed, claimed in (((4, 5, 6), 239, False, "240"), ((2, 2048, 2048), zeros, True, "16,777,216")):
        with pytest.raises(
            InputError, match=rf"^a: truncated: shape .* is {claimed} bytes, of which it holds {held:,}$"
        ):
            check_size("a", shape, 2, held, packed)
    check_size("a", (1, 1, 1), 2, 2, False)
    for shape in ((0, 5, 6), (4, 5, -6)):
        with pytest.raises(InputError, match="^a: expected axes of one voxel or more, got shape"):
            check_size("a", shape, 2, 240, False)


def test_a_compressed_file_may_go_on_for_the_size_of_its_voxels_and_a_mebibyte():
    for size in (0, 100, 1 << 20):
        read_out(io.BytesIO(bytes(size + (1 << 20))), "a", size)
        with pytest.raises(InputError, match=rf"^a: damaged: expected {size:,} bytes of voxels, got more than twice"):
            read_out(io.BytesIO(bytes(size + (1 << 20) + 1)), "a", size)


def test_pairs_upper_case_names_and_extra_axes_are_read(tmp_path):
    for name, image in (
        ("a.img", nib.Nifti1Pair(IMAGE, A)),
        ("b.nii.gz", nib.Nifti1Image(IMAGE[..., None, None], A)),
        ("c.nii", nib.Nifti2Image(IMAGE, A)),
    ):
        nib.save(image, tmp_path / name)
    (tmp_path / "b.nii.gz").rename(tmp_path / "B.NII.GZ")
    (tmp_path / "._c.nii").write_bytes(b"\0\5\26\7")  # macOS's
    (tmp_path / "notes.txt").write_text("")
    found, problems = nifti_files(tmp_path)
    assert (sorted(found), problems) == (["B", "a", "c"], [])
    for path in found.values():
        assert np.array_equal(read_nifti(path).voxels, IMAGE.transpose(2, 1, 0))
        (tmp_path / "mask.nii").write_bytes(nifti_like(path, LABEL.transpose(2, 1, 0)))
        mask = nib.load(tmp_path / "mask.nii")
        assert np.array_equal(np.asarray(mask.dataobj), LABEL)
        assert np.array_equal(mask.affine, A)
    (tmp_path / "own/images").mkdir(parents=True)
    nib.save(nib.Nifti1Pair(IMAGE, A), tmp_path / "own/images/a.img")
    (case,) = READERS.get("folder")(tmp_path / "own", classes=["A"]).cases()
    assert [path.name for path in case.images] == ["a.img", "a.hdr"]  # so that another header is another scan
    save(IMAGE[..., 0], tmp_path / "flat.nii")
    assert read_nifti(tmp_path / "flat.nii").voxels.shape == (1, 18, 20)
    (tmp_path / "a.img").unlink()
    assert nifti_files(tmp_path)[0]["a"].name == "a.hdr"  # so that reading it says what is missing
    with pytest.raises(InputError, match=r"a\.img: no such file, which a\.hdr needs"):
        read_nifti(tmp_path / "a.hdr")


def test_what_may_be_a_scan_but_is_not_read_is_named(tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    nib.save(nib.Nifti1Image(IMAGE, A), tmp_path / "images/a.nii.gz")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.mha").write_bytes(b"")
    with pytest.raises(InputError, match="2 problems") as caught:
        make(tmp_path, tmp_path / "out")
    assert "a.mha: not NIfTI, NRRD, PNG or DICOM by its name; convert it" in str(caught.value)
    assert "a.nii.gz: the same name as a.nii; keep one of them" in str(caught.value)


def h5(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if isinstance(value, dict):
                file.create_dataset(key, **value)
            else:
                file[key] = value


H5 = {
    "a link elsewhere": (dict(image=h5py.ExternalLink("/etc/passwd", "/")), "got a link or a group"),
    "text": (dict(image="text"), "expected real numbers, got object"),
    "compound": (dict(image=RGB[..., 0]), "expected real numbers"),
    "four axes": (dict(image=np.zeros((2, 2, 2, 2))), r"got shape \(2, 2, 2, 2\)"),
    "no number": (dict(image=3.0), r"got shape \(\)"),
    "absurd": (dict(image=dict(shape=(1 << 20, 1 << 20), dtype="f8", chunks=(64, 64))), "truncated: shape"),
    "other key": (dict(picture=np.zeros((4, 4))), "expected the key 'image', got picture"),
}


def test_slices_that_do_not_tell_their_spacing_have_one_millimetre(tmp_path):
    for k in range(2):
        h5(tmp_path / f"data/slices/patient001_frame01_slice_{k}.h5", image=np.eye(4), label=np.eye(4, dtype=np.uint8))
    make_ = READERS.get("ssl4mis")
    assert make_(tmp_path).read(make_(tmp_path).cases()[0])[0].spacing == (1, 1, 1)
    assert make_(tmp_path, spacing=(8, 2, 1)).read(make_(tmp_path).cases()[0])[0].spacing == (8, 2, 1)


def test_every_h5_file_is_looked_at_whatever_its_name_and_whichever_has_labels(tmp_path):
    image, label = np.eye(4), np.eye(4, dtype=np.uint8)
    h5(tmp_path / "data/slices/case_01_slice_0.H5", image=image)
    h5(tmp_path / "data/slices/case_01_slice_1.H5", image=image)
    h5(tmp_path / "data/case_02.H5", image=image[None], label=label[None])
    find = READERS.get("ssl4mis")
    assert [(c.name, c.split, c.labels is None) for c in find(tmp_path).cases()] == [
        ("case_01", "train", True),
        ("case_02", "val", False),
    ]
    h5(tmp_path / "data/slices/case_01_slice_1.H5", image=image, label=label)
    with pytest.raises(InputError, match=r"case_01_slice_0\.H5: expected the key 'label', got image"):
        make(tmp_path, tmp_path / "out", layout="ssl4mis")


@pytest.mark.parametrize("layout", ["acdc", "synapse", "ssl4mis"])
def test_a_name_in_two_lists_of_a_layout_is_refused(layout, tmp_path):
    ending = "list" if layout == "ssl4mis" else "txt"
    folder = tmp_path if layout == "ssl4mis" else tmp_path / "splits"
    (tmp_path / "RawData/Training/img").mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        (folder / f"{split}.{ending}").write_text("case0001\n")
    with pytest.raises(InputError, match=f"{folder}: case0001 is listed 2 times"):
        reader(tmp_path, layout).cases()


@pytest.mark.parametrize("kind", H5)
def test_an_odd_h5_file_ends_in_one_line(kind, tmp_path):
    h5(tmp_path / "data/slices/patient001_frame01_slice_0.h5", **H5[kind][0])
    with pytest.raises(InputError, match=rf"slice_0\.h5: .*{H5[kind][1]}") as caught:
        make(tmp_path, tmp_path / "out", layout="ssl4mis")
    assert "\n" not in str(caught.value)


def npz(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", content)


def npy(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1048576, 1048576)}"), "truncated: shape"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4)}"), "expected real numbers, got object"),
        (npy("__import__('os').system('true')"), "truncated or not npz"),
        (b"nonsense", "truncated or not npz"),
    ],
)
def test_an_odd_npz_file_ends_in_one_line(content, message, tmp_path):
    npz(tmp_path / "train_npz/case0006_slice000.npz", content)
    with pytest.raises(InputError, match=rf"slice000\.npz: .*{message}"):
        make(tmp_path, tmp_path / "out", layout="transunet")


def test_a_lone_slice_with_a_channel_axis_behind_is_a_slice(tmp_path):
    (tmp_path / "train_npz").mkdir()
    for case, depth in (("case0001", 1), ("case0002", 2)):
        for z in range(depth):
            values = dict(image=np.zeros((30, 40, 1), np.float32), label=np.zeros((30, 40, 1), np.uint8))
            np.savez(tmp_path / f"train_npz/{case}_slice{z:03d}.npz", **values)
    reader = READERS.get("transunet")(tmp_path)
    assert [reader.read_image(case).voxels.shape for case in reader.cases()] == [(1, 30, 40), (2, 30, 40)]


def test_slices_with_a_channel_axis_are_slices_and_colours_are_refused(tmp_path):
    folder = tmp_path / "train_npz"
    folder.mkdir()
    image = np.random.default_rng(0).random((3, 16, 16))
    for z in range(3):
        np.savez(folder / f"case0006_slice{z:03d}.npz", image=image[z, None], label=np.zeros((16, 16, 1), np.uint8))
    data = make(tmp_path, tmp_path / "out", layout="transunet")
    np.testing.assert_allclose(data.train_images(), image, atol=1e-3)
    with zipfile.ZipFile(folder / "case0006_slice001.npz", "w") as archive:  # a header of numpy's second version
        for key, value in (("image", image[1]), ("label", np.zeros((16, 16), np.uint8))):
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, value, version=(2, 0))
    assert np.array_equal(make(tmp_path, tmp_path / "v2", layout="transunet").train_images(), data.train_images())
    np.savez(folder / "case0006_slice001.npz", image=np.zeros((16, 16, 3)), label=np.zeros((16, 16)))
    with pytest.raises(InputError, match=r"slice001\.npz: image: expected one slice \(H, W\), got shape \(16, 16, 3\)"):
        make(tmp_path, tmp_path / "other", layout="transunet")


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1, NAN), (1, float("inf"), 1)])
def test_a_spacing_of_slices_is_of_positive_numbers(spacing, tmp_path):
    with pytest.raises(InputError, match="--voxel: expected three positive numbers of mm, got"):
        reader(tmp_path, "ssl4mis", spacing=spacing)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0, 1), None),
        ((2, 5), "without 3, 4"),
        ((3, 9), "without 4, 5, 6, 7, 8"),
        ((0, 7), "without 1, 2, 3, 4, 5, …"),
        ((0, 2, 3), "without 1"),
        ((4,), None),
    ],
)
def test_slices_that_are_missing_between_others_are_counted(numbers, said, tmp_path):
    image = np.random.default_rng(0).random((len(numbers), 1, 5, 4))  # as some converters write a slice
    label = (image > 0.5).astype(np.uint8)
    for z, number in enumerate(numbers):
        h5(tmp_path / f"data/slices/p1_slice_{number}.h5", image=image[z], label=label[z])
    h5(tmp_path / "data/p2.h5", image=image[:, 0], label=label[:, 0])
    found = reader(tmp_path, "ssl4mis", spacing=(8, 2, 1.5))
    for case in found.cases():
        volume, mask = found.read(case)
        assert np.array_equal(volume.voxels, image[:, 0])
        assert np.array_equal(mask.voxels, label[:, 0])
        assert np.array_equal(volume.affine, np.diag([1.5, 2, 8, 1]))
        there = [(sentence.split(";")[0], detail) for sentence, detail in volume.notes]
        assert there == [("numbers of slices are missing", said)] * (case.name == "p1" and said is not None)


def test_names_of_slices_are_a_case_and_a_number_that_no_other_has(tmp_path):
    folder = tmp_path / "data/slices"
    for name in ("p1_slice_1", "p1_slice_01", "p1", "p2_slice_1"):
        h5(folder / f"{name}.h5", image=np.eye(4))
    np.save(folder / "other.npy", np.eye(4))
    for name in ("readme.txt", ".hidden.h5"):
        (folder / name).write_text("")
    rows, problems = reader(tmp_path, "ssl4mis").find()
    assert [row[0] for row in rows] == ["p1", "p2"]
    said = "expected CASE, slice and another number than its neighbours' in the name"
    assert problems == [f"{folder / name}: {said}" for name in ("other.npy", "p1.h5", "p1_slice_1.h5")]


def test_slices_that_compress_well_are_read_and_those_of_other_files_are_not(tmp_path):
    zeros = np.zeros((8, 64, 64))
    h5(tmp_path / "data/a.h5", image=dict(data=zeros, compression="gzip", chunks=(8, 64, 64)))
    found = reader(tmp_path, "ssl4mis")
    assert np.array_equal(found.read(found.cases()[0])[0].voxels, zeros)
    (tmp_path / "train_npz").mkdir()
    np.savez_compressed(tmp_path / "train_npz/case0006_slice000.npz", image=zeros[0])
    found = reader(tmp_path, "transunet")
    assert np.array_equal(found.read(found.cases()[0])[0].voxels, zeros[:1])
    layout = h5py.VirtualLayout(shape=(8, 64, 64), dtype="f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "data/b.h5"), "image", shape=(8, 64, 64))
    (tmp_path / "elsewhere").write_bytes(bytes(zeros.nbytes))
    elsewhere = [(str(tmp_path / "elsewhere"), 0, zeros.nbytes)]
    for make_it in (
        lambda file: file.create_virtual_dataset("image", layout),
        lambda file: file.create_dataset("image", zeros.shape, "f8", external=elsewhere),
    ):
        with h5py.File(tmp_path / "data/a.h5", "w") as file:
            make_it(file)
        found = reader(tmp_path, "ssl4mis")
        with pytest.raises(
            InputError, match=r"a\.h5: image: expected an array in this file, got one that lies in othe"
        ):
            found.read(found.cases()[0])


# Intensities


def test_a_few_voxels_far_off_leave_the_others_their_grey_levels():
    voxels = IMAGE.astype(np.float32)
    for value in (-32767, 32767):
        voxels[0, 0, 0] = value
        scaled, _ = scale_intensity(voxels, "mr")
        assert len(np.unique(scaled.astype(np.float16))) > 300


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1.0, 1e36, 1e38, 1e300])
@pytest.mark.parametrize("base", [0.0, 1e7])
def test_any_finite_range_is_scaled_to_finite_grey_levels(scale, base):
    scaled, _ = scale_intensity((IMAGE / 500 + base) * scale, "mr")
    assert np.isfinite(scaled).all()
    assert len(np.unique(scaled.astype(np.float16))) > 400


def test_what_scaling_leaves_is_looked_at(tmp_path):
    unit = IMAGE / 500
    assert "few grey levels" in str(scaling_notes(unit * 200, scale_intensity(unit * 2, "ct")[0], "ct"))
    save(unit.astype(np.float32), tmp_path / "images/a.nii")
    with pytest.raises(InputError, match=r"a\.nii: expected HU, got 0 to .*--modality mr"):
        make(tmp_path, tmp_path / "out", modality="ct")
    folder = tmp_path / "train_npz"
    folder.mkdir()
    np.savez(folder / "case0006_slice000.npz", image=IMAGE[..., 0].astype(float), label=LABEL[..., 0])
    with pytest.raises(InputError, match=r"slice000\.npz: expected voxels in \[0, 1\]"):
        make(tmp_path, tmp_path / "out", layout="transunet")


@pytest.mark.parametrize(
    ("share", "value", "said"),
    [
        (0.0, 0, ""), (0.006, 32767, "in a small part of [0, 1]', '0.001"),
        (0.02, 32767, "in a small part"), (0.01, 1e6, "in a small part"), (0.08, -5000, "in a small part"),
    ],
)  # fmt: skip
def test_voxels_far_off_that_set_the_scale_are_said(share, value, said):
    random = np.random.default_rng(0)
    voxels = random.integers(0, 500, (6, 40, 40)).astype(np.float32)
    voxels[random.random(voxels.shape) < share] = value
    found = scaling_notes(voxels, scale_intensity(voxels, "mr")[0], "mr")
    assert len(found) == bool(said)
    assert said in str(found)


def test_a_mask_in_the_place_of_a_scan_is_said(tmp_path):
    save(LABEL, tmp_path / "images/a.nii")
    save(LABEL, tmp_path / "labels/a.nii")
    (said,) = make(tmp_path, tmp_path / "out").case("a")["notes"]
    assert said == ["so few different values are a mask's rather than a scan's", "3, 0 to 2"]


def test_a_scan_unlike_the_others_is_said(tmp_path):
    for k, name in enumerate("abcde"):
        save(IMAGE + k, tmp_path / f"images/{name}.nii")
    save((IMAGE / 50.0) ** 4, tmp_path / "images/odd.nii")
    cases = make(tmp_path, tmp_path / "out").manifest["cases"]
    assert [name for name, case in cases.items() if case["notes"]] == ["odd"]


def test_a_scan_under_two_names_is_said_and_where_it_is_on_both_sides_of_a_split(tmp_path):
    for k, name in enumerate(("a", "b", "c")):
        save(IMAGE + k * (name == "b"), tmp_path / f"images/{name}.nii")
        save(LABEL, tmp_path / f"labels/{name}.nii")
    cases = make(tmp_path, tmp_path / "out", val=["c"]).manifest["cases"]
    notes = {name: case["notes"] for name, case in cases.items() if case["notes"]}
    assert notes == {"c": [["the same voxels as another case's", "a, which is in train, this in val"]]}


def test_nan_is_refused_unless_it_is_to_be_filled(tmp_path):
    voxels = IMAGE.astype(np.float32)
    voxels[:3] = np.nan
    save(voxels, tmp_path / "images/a.nii")
    with pytest.raises(InputError, match="324 NaN or infinite; --fill-nan of cmems prepare nifti reads"):
        make(tmp_path, tmp_path / "out")
    assert (make(tmp_path, tmp_path / "out", fill_nan=True).train_images()[:, :, 0] == 0).all()


# Labels


@pytest.mark.parametrize("factor", [0.99999994, 0.9999])
def test_labels_stored_through_a_float_are_rounded(factor, tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    save((LABEL * factor).astype(np.float32), tmp_path / "labels/a.nii")
    assert np.array_equal(read(tmp_path)[1].voxels, LABEL.transpose(2, 1, 0))
    save((LABEL * 0.9882).astype(np.float32), tmp_path / "labels/a.nii")
    with pytest.raises(InputError, match=r"expected integer labels, got (0\.9882|1\.9764)"):
        read(tmp_path)


def test_other_numbers_are_mapped_as_asked_and_the_rest_is_said(tmp_path):
    numbers = np.array([0, 500, 205], np.int16)
    mask = numbers[LABEL]
    mask[0, 0, 0] = 7
    save(IMAGE, tmp_path / "images/a.nii")
    save(mask, tmp_path / "labels/a.nii")
    with pytest.raises(InputError, match=r"expected labels 0 to 2, got 7, 205, 500; --labels"):
        make(tmp_path, tmp_path / "out")
    _, label = read(tmp_path, labels=[500, 205])
    expected = LABEL.copy()
    expected[0, 0, 0] = 0
    assert np.array_equal(label.voxels, expected.transpose(2, 1, 0))
    assert "become background (7)" in notes(label)


def test_255_beside_labels_means_not_annotated_and_alone_is_refused(tmp_path):
    mask = np.full(SHAPE, 255, np.uint8)
    mask[..., 1] = LABEL[..., 1]
    save(IMAGE, tmp_path / "images/a.nii")
    save(mask, tmp_path / "labels/a.nii")
    data = make(tmp_path, tmp_path / "out")
    assert data.eligible_exemplars() == [("a", 1)]
    (said,) = data.case("a")["notes"]
    assert said == [
        "voxels marked as unknown, by 255 or as ignored, are neither learned from nor measured on",
        "1,800 of 2,160",
    ]
    save((LABEL > 0) * np.uint8(255), tmp_path / "labels/a.nii")
    with pytest.raises(InputError, match="expected labels 0 to 2, got 255; --labels"):
        make(tmp_path, tmp_path / "other")


def test_a_label_or_a_class_that_one_case_lacks_is_said(tmp_path):
    for k, name in enumerate("abcdef"):
        save(IMAGE + k, tmp_path / f"images/{name}.nii")
        if name not in "cf":
            save(np.where(LABEL == 2, 0, LABEL) if name == "b" else LABEL, tmp_path / f"labels/{name}.nii")
    cases = make(tmp_path, tmp_path / "out", val=["e", "f"]).manifest["cases"]  # of these just one has a label
    notes = {name: case["notes"] for name, case in cases.items() if case["notes"]}
    assert notes == {
        "b": [["its label lacks a class that most cases' have", "B"]],
        "c": [["no label, while most cases of the split have one", "train"]],
    }


def test_a_validation_mask_of_one_slice_is_said(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[..., 1] = LABEL[..., 1]
    save(IMAGE, tmp_path / "images/a.nii")
    save(mask, tmp_path / "labels/a.nii")
    data = make(tmp_path, tmp_path / "out", val=["a"], unpainted="background")
    assert "labels on few slices" in str(data.case("a")["notes"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([f"c{k}" for k in range(255)], "254 classes or fewer"),
        (["A", "A"], "different names"),
        (["A", ""], "different"),
        (["mean", "A"], "other than background and mean"),
    ],
)
def test_classes_that_labels_cannot_hold_are_refused(classes, message, tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    with pytest.raises(InputError, match=message):
        prepare(READERS.get("nifti")(tmp_path, classes=classes), tmp_path / "out", size=16, workers=1)


# Names and splits


def test_a_name_means_the_case_itself_before_a_patient_before_a_number():
    cases = ["case_1", "case_1_left", "case_10", "p2_a", "p2_b", "case0001", "case10001"]
    assert matches("case_1", cases) == ["case_1"]
    assert matches("p2", cases) == ["p2_a", "p2_b"]
    assert matches("10001", cases) == ["case10001"]
    assert matches("case_10.nii.gz", cases) == ["case_10"]
    assert matches("case", cases) == ["case_1", "case_1_left", "case_10"]
    assert matches("p", cases) == []
    phases = [f"patient00{k}_frame{f}" for k in (1, 2) for f in ("01", "12")]
    assert matches("001", phases) == phases[:2]
    assert matches("12", phases) == []


def test_a_number_that_several_cases_have_is_refused(tmp_path):
    for name in ("anna_1", "anna_2", "bert_1", "bert_2"):
        save(IMAGE, tmp_path / f"raw/images/{name}.nii")
    for options in (dict(val=["1"]), dict(splits=str(tmp_path / "s.json"))):
        (tmp_path / "s.json").write_text(json.dumps({"train": ["anna_2"], "val": ["1"]}))
        with pytest.raises(InputError, match="val 1: 2 cases have that number, anna_1, bert_1; name one"):
            READERS.get("nifti")(tmp_path / "raw", classes=["A"], **options).cases()


def three(tmp_path):
    for name in "abc":
        save(IMAGE, tmp_path / f"raw/images/{name}.nii")
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a"], "val": ["bb"]}, "--splits val bb: no such case in .*; near: b"),
        ({"train": ["a", "b"], "val": ["b"]}, "--splits val b: case b is named in train already"),
        ({"train": ["a"], "val": [1]}, "val: expected a list of case names, got 1"),
        ({"train": "a"}, "train: expected a list of case names, got 'a'"),
        ({"training": ["a"], "val": ["b"]}, "expected the keys train, val, test; got training"),
        (
            {"training": [{"image": "a"}], "val": ["b"], "validation": []},
            "of a dataset.json the list training alone is read; got val too",
        ),
        ({"training": 1}, "expected the keys train, val, test; got training"),
        ({"training": [{"image": 3}]}, "train: expected a list of case names, got 3"),
        ([{"train": ["a"]}, {"train": ["b"]}], "2 folds; choose with --fold 0 to 1"),
        ("a", "expected the keys train, val, test; got str"),
        ('{"train": ["a"], "val": ["b"], "train": ["c"]}', r"lists \('train' stands there twice\)"),
    ],
)
def test_splits_that_are_not_understood_are_refused(content, message, tmp_path):
    (tmp_path / "s.json").write_text(content if str(content)[:2] == '{"' else json.dumps(content))
    with pytest.raises(InputError, match=message):
        reader(three(tmp_path), splits=tmp_path / "s.json").cases()


def test_no_case_is_named_beside_none(tmp_path):
    with pytest.raises(InputError, match="--val: expected cases, or none alone, got none,b"):
        reader(three(tmp_path), val=["none", "b"]).cases()
    assert {case.split for case in reader(three(tmp_path), val=["none"]).cases()} == {"train"}


@pytest.mark.parametrize(
    ("content", "options", "splits"),
    [
        ({"train": ["a.nii.gz"], "val": ["b.nii.gz"]}, {}, dict(a="train", b="val")),
        ([{"train": ["a"], "val": ["b"]}], {}, dict(a="train", b="val")),
        ([{"train": ["a"]}, {"train": ["b", "c"]}], dict(fold=1), dict(b="train", c="train")),
        ({"training": [{"image": "./imagesTr/a.nii.gz"}], "test": ["./imagesTs/d.nii.gz"]}, {}, dict(a="train")),
        ({"train": ["a", "b"], "val": ["c"]}, dict(val=["b"]), dict(a="train", b="val", c="train")),
    ],
)
def test_splits_of_other_tools_are_read(content, options, splits, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content))
    cases = reader(three(tmp_path), splits=tmp_path / "s.json", **options).cases()
    assert {case.name: case.split for case in cases} == splits


def test_a_second_channel_is_no_patient(tmp_path):
    for channel in (0, 1):
        save(IMAGE + channel, tmp_path / f"imagesTr/p_{channel:04d}.nii")
    save(LABEL, tmp_path / "labelsTr/p.nii")
    with pytest.raises(InputError, match=r"2 channels of p: p_0000\.nii, p_0001\.nii; --channel picks one"):
        read(tmp_path)
    volume = read(tmp_path, channel=1)[0]
    assert np.array_equal(volume.voxels, (IMAGE + 1).transpose(2, 1, 0))
    assert not volume.notes


def test_a_number_at_the_end_is_a_channel_where_nnunet_has_its_scans(tmp_path):
    for place, name in (("imagesTr", "p"), ("images", "p_0000")):
        root = tmp_path / place
        save(IMAGE, root / place / "p_0000.nii")
        assert [case[0] for case in reader(root).find()[0]] == [name]


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "a\\b", "C:x", "..", "", ".x", "NUL", "com1.a", "x.", "a\n", "x" * 300, 3]
)
def test_names_that_lead_elsewhere_are_refused(name):
    assert name_problem(name)
    assert name_problem("scan[1]") is name_problem("Ä b=c") is None


# What was prepared


def prepared(tmp_path, names=("a", "a_b", "scan[1]")):
    for name in names:
        save(IMAGE, tmp_path / f"raw/images/{name}.nii")
        save(LABEL, tmp_path / f"raw/labels/{name}.nii")
    return make(tmp_path / "raw", tmp_path / "out", val=["a", "scan[1]"])


def test_each_volume_is_its_own_whatever_the_names(tmp_path):
    data = prepared(tmp_path)
    assert sorted(data.manifest["files"]) == [
        "train_images.npy", "train_labels.npy", "volumes/a_image.npy", "volumes/a_label.npy",
        "volumes/scan[1]_image.npy", "volumes/scan[1]_label.npy",
    ]  # fmt: skip
    assert data.volume("scan[1]")["image"].shape == (6, 18, 20)


def test_numbers_that_a_command_line_made_of_names_are_names(tmp_path):
    data = prepared(tmp_path, ("001", "a", "scan[1]"))
    assert data.case(1) is data.case("001")
    with pytest.raises(InputError, match="no case '7'"):
        data.case(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["cases"].update({"../../x": m["cases"].pop("a")}), r"case name '\.\./\.\./x'"),
        (lambda m: m["splits"]["val"].append("c"), "splits: 'val': 'c' is no case of that split"),
        (
            lambda m: m["files"].update({"../x.npy": m["files"]["train_images.npy"]}),
            r"'\.\./x\.npy' belongs to no case",
        ),
        (lambda m: m["cases"]["a"].update(shape="6"), "cases: a: shape: expected three positive integers, got '6'"),
        (lambda m: m["cases"]["a_b"].update(slices=[0, 99]), r"slices: expected \[0, 6\], got \[0, 99\]"),
        (lambda m: m.update(size=True), "size: expected a positive integer, got True"),
        (lambda m: m.update(classes=[1]), "classes: expected a list of different names"),
        (lambda m: m.update(classes=["half a \ud800"]), "classes: expected a list of different names"),
        (lambda m: m.pop("files"), "files: expected objects .* got nothing"),
        (lambda m: m["files"].pop("volumes/a_image.npy"), r"files: volumes/a_image\.npy is not listed"),
    ],
)
def test_a_manifest_that_is_not_as_written_is_refused_in_one_line(change, message, tmp_path):
    manifest = prepared(tmp_path).manifest
    change(manifest)
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        PreparedDataset(tmp_path / "out")


@pytest.mark.parametrize("order", "<>")
def test_shares_are_read_from_0_to_1(order, tmp_path):
    scan, header = np.zeros((4, 3, 2), f"{order}i2"), nib.Nifti1Header(endianness=order)
    nib.save(nib.Nifti1Image(scan, np.eye(4), header), tmp_path / "scan.nii")
    shares = np.array([0, 65535, 13107], np.uint16).repeat(8).reshape(1, 2, 3, 4)
    found = nib.Nifti1Image.from_bytes(nifti_like(tmp_path / "scan.nii", shares)).get_fdata()
    np.testing.assert_allclose(found[..., 0], shares[0].T / 65535, rtol=1e-6)


def test_what_a_library_says_of_a_file_is_passed_on(tmp_path):
    for error, reason in ((ValueError("too  wide\nby far"), "too wide by far"), (KeyError(), "KeyError")):
        with (
            pytest.raises(InputError, match=rf"x: truncated or not a scan \({reason}\)"),
            reading(tmp_path / "x", "a scan"),
        ):
            raise error


def test_a_file_that_is_missing_is_named_and_which_needs_it(tmp_path):
    path = tmp_path / "a.hdr"
    for error, message in (
        (FileNotFoundError(), f"{path}: no such file"),
        (FileNotFoundError(2, "", str(path)), f"{path}: no such file"),
        (FileNotFoundError(2, "", "b.img"), "b.img: no such file, which a.hdr needs"),
        (MemoryError(), f"{path}: does not fit into memory"),
        (InputError("as it is"), "as it is"),
    ):
        with pytest.raises(InputError) as caught, reading(path, "a scan"):
            raise error
        assert str(caught.value) == message


def test_a_manifest_that_was_changed_is_said(tmp_path, capsys):
    """Each digit of it: a spacing that is another, and still a number, would give other volumes."""
    data, path = prepared(tmp_path), tmp_path / "out" / MANIFEST
    assert check(data.root) == []
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text), indent=3))  # laid out otherwise, it says the same
    assert check(data.root) == []
    for old, new in (('"spacing": [', '"spacing":  ['), ("8.0", "9.0"), ('"count"', '"counts"'), ("1.5", "1.25")):
        path.write_text(text.replace(old, new, 1))
        said = [f"{path}: changed since it was written, by hand or by damage; its checksum is another"]
        assert check(data.root) == said * (json.loads(path.read_text()) != json.loads(text))
    assert f"warning: {said[0]}\n" == capsys.readouterr().err
    path.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "sha256"}))  # as older ones are
    assert check(data.root) == []


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", "[" * 100000, '{"format": "cmems-prepared", "version": 1}', "\xff"]
)
def test_any_json_ends_in_an_input_error(text, tmp_path):
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        PreparedDataset(tmp_path)


def test_cut_foreign_and_damaged_arrays_are_noticed(tmp_path):
    data = prepared(tmp_path)
    path = data.root / "volumes/a_image.npy"
    whole = path.read_bytes()
    for content, message in [
        (whole[:-2], "a_image.npy: damaged"),
        (whole + b"\0", "a_image.npy: expected .* bytes, got"),
        (b"", "a_image.npy: damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            PreparedDataset(data.root)
    np.save(path, np.zeros((6, 18, 21), np.float16))
    with pytest.raises(InputError, match=r"a_image\.npy: expected float16 of shape \(6, 18, 20\), got .*\(6, 18, 21\)"):
        PreparedDataset(data.root)
    path.unlink()
    with pytest.raises(InputError, match="a_image.npy: no such file"):
        PreparedDataset(data.root)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="a_image.npy: damaged or replaced"):
        PreparedDataset(data.root).volume("a")
    labels = data.root / "train_labels.npy"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    damaged = PreparedDataset(data.root)
    assert damaged.train_label(0).shape == (16, 16)
    with pytest.raises(InputError, match="row 5 is damaged"):
        damaged.train_label(5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_nobody_waits_for_a_pipe(tmp_path):
    pipe, data = tmp_path / "pipe", prepared(tmp_path)
    os.mkfifo(pipe)
    for read in (
        lambda: reader(tmp_path / "raw", splits=pipe), lambda: reader(tmp_path / "raw", names=pipe),
        lambda: read_nifti(pipe), lambda: file_sha256(pipe),
    ):  # fmt: skip
        with pytest.raises(InputError, match="pipe: not a file, but a pipe"):
            read()
    (data.root / "train_images.npy").unlink()
    os.mkfifo(data.root / "train_images.npy")
    assert check(data.root) == [f"{data.root / 'train_images.npy'}: not a file, but a pipe, a socket or a device"]


def test_what_was_converted_under_other_settings_is_not_used(tmp_path):
    save(IMAGE, tmp_path / "raw/images/a.nii")
    (tmp_path / "raw/images/b.nii").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.nii"):
        make(tmp_path / "raw", tmp_path / "out")
    save(IMAGE, tmp_path / "raw/images/b.nii")
    data = make(tmp_path / "raw", tmp_path / "out", modality="ct")
    assert np.array_equal(data.train_images()[:6], data.train_images()[6:])


def test_overwrite_leaves_nothing_of_what_was_there_and_fails_without_harm(tmp_path):
    data = prepared(tmp_path)
    before = data.manifest
    for path in (tmp_path / "raw/labels").iterdir():
        path.unlink()
    (tmp_path / "raw/images/bad.nii").write_bytes(b"")
    again = reader(tmp_path / "raw")
    with pytest.raises(InputError, match=r"bad\.nii"):
        prepare(again, tmp_path / "out", 16, 1, overwrite=True)
    assert PreparedDataset(tmp_path / "out").manifest == before
    (tmp_path / "raw/images/bad.nii").unlink()
    prepare(again, tmp_path / "out", 16, 1, overwrite=True)
    assert [p.name for p in (tmp_path / "out").rglob("*.npy")] == ["train_images.npy"]


def test_two_preparations_of_one_folder_do_not_meet(tmp_path):
    save(IMAGE, tmp_path / "raw/images/a.nii")
    held = folder_lock(tmp_path / "out", "preparing data")
    with held, pytest.raises(InputError, match="another process is preparing data in this folder"):
        make(tmp_path / "raw", tmp_path / "out")
    make(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize("nth", range(1, 9))
def test_a_disk_that_fails_at_any_write_leaves_no_data_set_and_names_a_path(nth, tmp_path, monkeypatch):
    for name in "ab":
        save(IMAGE, tmp_path / f"raw/images/{name}.nii")
    real, count = os.fsync, 0

    def failing(descriptor):
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    monkeypatch.setattr("cmems.files.os.fsync", failing)
    found = reader(tmp_path / "raw", val=["b"])
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(found, tmp_path / "out", 16, 1)
    assert str(tmp_path / "out") in str(caught.value.filename)
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert not list((tmp_path / "out").rglob("*.part"))
    monkeypatch.undo()
    assert PreparedDataset(prepare(found, tmp_path / "out", 16, 1).root).cases("val") == ["b"]


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"what nibabel cannot open")
    with pytest.raises(InputError, match="truncated or not a NIfTI file"):
        read_nifti(path)
    monkeypatch.setattr("cmems.datasets.readers.files.os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"a\.nii\.gz: no permission to read it$"):
        read_nifti(path)


@pytest.mark.parametrize(("spacing", "known"), [((1, 1, 1), "RAS"), ((1.5, 1.5, 1.5), None), ((1, 1, 1.005), "RAS")])
def test_an_affine_of_one_millimetre_beside_another_spacing_tells_no_axes(spacing, known):
    voxels = np.zeros((2, 2, 2))
    assert known_axes(Volume(voxels, spacing, np.eye(4), (np.eye(4),))) == known
    assert known_axes(Volume(voxels, spacing, np.eye(4))) is None


def test_a_channel_that_was_asked_for_of_a_scan_with_one_is_said(tmp_path):
    save(IMAGE, tmp_path / "images/a.nii")
    save(np.stack([IMAGE, IMAGE + 1], -1), tmp_path / "images/b.nii")
    folder = reader(tmp_path, channel=1)
    found = {case.name: folder.read(case)[0] for case in folder.cases()}
    assert ("it has one channel, which is read", "channel 1 was asked for") in found["a"].notes
    assert not any("channel" in sentence for sentence, _ in found["b"].notes)
    assert np.array_equal(found["b"].voxels, (IMAGE + 1).transpose(2, 1, 0))


def test_each_channel_of_four_axes_is_read_and_no_other(tmp_path):
    save(np.stack([IMAGE, IMAGE + 1], -1), tmp_path / "a.nii")
    for channel in (0, 1):
        assert np.array_equal(read_nifti(tmp_path / "a.nii", channel).voxels, (IMAGE + channel).transpose(2, 1, 0))
    for channel in (-1, 2):
        with pytest.raises(InputError, match=rf"channel {channel}: expected 0 to 1, got shape"):
            read_nifti(tmp_path / "a.nii", channel)


def test_memory_is_asked_for_the_voxels_as_they_are_and_as_they_are_scaled(tmp_path, monkeypatch):
    bytes_of = IMAGE.size * (IMAGE.itemsize + 8)
    save(IMAGE, tmp_path / "a.nii")
    monkeypatch.setattr("cmems.datasets.readers.files.free_bytes", lambda: bytes_of)
    assert read_nifti(tmp_path / "a.nii").voxels.size == IMAGE.size
    monkeypatch.setattr("cmems.datasets.readers.files.free_bytes", lambda: bytes_of - 1)
    with pytest.raises(InputError, match=r"a\.nii: shape .* needs 0 MiB of memory, 0 are free"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("numbers", [[0, 2], [2, 2], [1], [1, 2, 3]])
def test_labels_are_a_number_other_than_0_for_each_class(numbers, tmp_path):
    with pytest.raises(InputError, match=r"--labels: expected 2 different numbers other than 0, got"):
        reader(tmp_path, labels=numbers)
    with pytest.raises(InputError, match=r"--labels: expected numbers that masks hold, .*, got 100000000000000000000"):
        reader(tmp_path, labels=[1, 10**20])


def test_what_nobody_painted_is_not_among_the_labels_that_are_out_of_range(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[..., 1] = LABEL[..., 1] * 10
    save(IMAGE, tmp_path / "images/a.nii")
    save(mask, tmp_path / "labels/a.nii")
    with pytest.raises(InputError, match=r"expected labels 0 to 2, got 10, 20; --labels .*, here perhaps 10,20$"):
        make(tmp_path, tmp_path / "out")


def test_a_part_cut_out_less_than_a_millimetre_into_the_scan_is_found():
    scan = np.diag([0.4, 0.4, 2.0, 1.0])
    cut = scan.copy()
    cut[:3, 3] = 0.8, 0, 0  # from its third column on
    label = np.zeros((3, 8, 6), np.uint8)
    label[1, 2:5, 1:4] = 1
    image = Volume(np.zeros((3, 8, 8)), (2, 0.4, 0.4), scan, (scan,))
    laid = lay_on(Volume(label, (2, 0.4, 0.4), cut, (cut,)), image, "label", Path("scan"))
    assert np.array_equal(laid.voxels, np.pad(label, ((0, 0), (0, 0), (2, 0))))


def test_labels_whose_header_tells_no_place_lie_as_their_scan_does():
    voxels = np.zeros((3, 8, 8))
    known, bare = Volume(voxels, (2, 1, 1), A, (A,)), Volume(voxels, (2, 1, 1), A)
    laid = lay_on(bare, known, "label", Path("scan"))
    assert laid.voxels is voxels
    assert "does not say where it lies" in notes(laid)
    assert lay_on(bare, bare, "label", Path("scan")) is bare
    assert lay_on(known, bare, "label", Path("scan")) is known


def test_other_lines_of_acdcs_info_may_hold_anything(tmp_path):
    (tmp_path / "Info.cfg").write_text("Comment: begun at 12:30:00\nno colon\nED: 1\nES: 12\n")
    assert _frames(tmp_path) == ([1, 12], [])
