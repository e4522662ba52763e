"""One's own data as viewers and scanners save it: NRRD, DICOM, images, names of labels, masks of one slice."""

import gzip
import json
import os
import re
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cmems.apis import predict
from cmems.apis.pick import pick
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepare import prepare
from cmems.datasets.prepared import PreparedDataset, true_affine
from cmems.datasets.readers.dicom import series_files
from cmems.datasets.readers.files import files_below, folders_in, nifti_files
from cmems.datasets.readers.folder import filled
from cmems.datasets.readers.geometry import lay_on
from cmems.datasets.readers.label_names import read_label_names
from cmems.datasets.readers.nifti import Volume
from cmems.datasets.readers.scans import (
    check_mask,
    choose_channel,
    encoded,
    is_segmentation,
    mask_ending,
    read_grid,
    read_mask,
    read_scan,
    scan_files,
)
from cmems.errors import InputError
from cmems.registry import READERS
from cmems.visualization.colors import class_colors

AFFINE = np.diag([1.5, 2.0, 4.0, 1.0])
AFFINE[:3, 3] = -20, 10, 5
SHAPE = (12, 10, 6)  # (x, y, z)
IMAGE = np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[3:7, 2:6, 3], LABEL[7:9, 2:6, 3] = 1, 2  # one painted slice
ZYX = (2, 1, 0)


def nii(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def need(module):
    return pytest.importorskip(module, reason=f"{module} is not here, of an optional extra")


def nrrd(path, array, affine=AFFINE, encoding="gzip", **fields):
    """Write NRRD by hand, as 3D Slicer does: LPS, a list of layers first where there are four axes."""
    need("nrrd")
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    text = dict(
        type={"int16": "short", "uint8": "unsigned char", "float32": "float"}[array.dtype.name],
        dimension=array.ndim, space="left-posterior-superior", sizes=" ".join(map(str, array.shape)),
        kinds=" ".join(["list"] * (array.ndim - 3) + ["domain"] * 3), endian="little", encoding=encoding,
    )  # fmt: skip
    vectors = [f"({','.join(map(str, column))})" for column in lps[:, :3].T]
    text["space directions"] = " ".join(["none"] * (array.ndim - 3) + vectors)
    text["space origin"] = f"({','.join(map(str, lps[:, 3]))})"
    lines = [f"{key}: {value}" for key, value in {**text, **fields.pop("header", {})}.items() if value is not None]
    lines += [f"{key}:={value}" for key, value in fields.items()]
    data = np.asfortranarray(array).tobytes("F")
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(data, mtime=0) if encoding == "gzip" else data
    path.write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + packed)


def segments(*names):
    """Header fields of segments that share a layer, numbered from 1."""
    fields = ((k, dict(Name=name, Layer=0, LabelValue=k + 1)) for k, name in enumerate(names))
    return {f"Segment{k}_{key}": value for k, values in fields for key, value in values.items()}


def folder(root, **options):
    return READERS.get("folder")(root, **{"classes": ["A", "B"], **options})


def read(root, **options):
    (case,) = (found := folder(root, **options)).cases()
    return found.read(case)


def said(volume):
    return " ".join(f"{sentence} ({detail})" for sentence, detail in volume.notes)


def dicom(folder, voxels, affine=AFFINE, slices=None, series="1.2.826.1", number=3, names="IM{:04d}.dcm", **fields):
    """Write a CT series by pydicom, its slices shuffled: ``voxels`` (x, y, z) in HU, intercept -1024."""
    pydicom = need("pydicom")
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    steps = np.linalg.norm(lps[:, :3], axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(voxels.shape[2]) if slices is None else slices:
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{series}.{z + 1}"
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one = pydicom.Dataset()
        one.file_meta = meta
        values = dict(
            SOPClassUID=meta.MediaStorageSOPClassUID, SOPInstanceUID=meta.MediaStorageSOPInstanceUID, Modality="CT",
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], StudyInstanceUID="1.2.826.9", SeriesInstanceUID=series,
            FrameOfReferenceUID="1.2.826.8", SeriesNumber=number, InstanceNumber=z + 1, PatientName="Doe^Jane",
            PatientID="SECRET", PatientBirthDate="19700101", PatientSex="F", StudyDate="20200101", StudyTime="120000",
            StudyID="1", AccessionNumber="", ReferringPhysicianName="", Manufacturer="X", PositionReferenceIndicator="",
            PatientPosition="HFS", SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
            Rows=voxels.shape[1], Columns=voxels.shape[0], BitsAllocated=16, BitsStored=16, HighBit=15,
            PixelRepresentation=0, RescaleSlope=1, RescaleIntercept=-1024, SliceThickness=steps[2],
            PixelSpacing=[steps[1], steps[0]], ImagePositionPatient=list(lps[:, 3] + z * lps[:, 2]),
            ImageOrientationPatient=[*(lps[:, 0] / steps[0]), *(lps[:, 1] / steps[1])],
        )  # fmt: skip
        for key, value in {**values, **fields}.items():
            if value is not None:
                setattr(one, key, value)
        one.PixelData = (voxels[:, :, z].T + 1024).astype("<u2").tobytes()
        one.save_as(folder / names.format(-z % voxels.shape[2]), enforce_file_format=True)


# Masks that viewers save


def cut(x, y, z, affine=AFFINE):
    """Labels from a voxel on, and the affine of that part."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ (x, y, z)
    return LABEL[x:, y:, z : z + 2], moved


def test_a_segmentation_of_slicer_is_understood_by_the_names_of_its_segments(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    part, affine = cut(2, 1, 2)
    expected = np.array([0, 2, 1], np.uint8)[LABEL].transpose(ZYX)
    nrrd(tmp_path / "labels/a.seg.nrrd", part, affine, **segments("b", "A"))
    _, label = read(tmp_path, unpainted="background")
    assert np.array_equal(label.voxels, expected)
    assert "cover a part of the scan" in said(label)
    nrrd(tmp_path / "labels/a.seg.nrrd", part, affine, **segments("A", "a"))
    with pytest.raises(InputError, match=r"a\.seg\.nrrd: expected one label called A, got A and a; rename or merge"):
        read(tmp_path)
    with pytest.raises(
        InputError, match="--classes: expected different names, got l_k and L K, which are compared as one"
    ):
        read(tmp_path, classes=["A", "l_k", "L K"])
    layers = np.stack([part == 1, part == 2]).astype(np.uint8)
    fields = dict(Segment0_Name="B", Segment0_Layer=0, Segment1_Name="A", Segment1_Layer=1)  # label value 1 by default
    nrrd(tmp_path / "labels/a.seg.nrrd", layers, affine, **fields)
    assert np.array_equal(read(tmp_path, unpainted="background")[1].voxels, expected)
    nrrd(tmp_path / "labels/a.seg.nrrd", part, affine, **segments("Segment_1", "Segment_2"))
    _, label = read(tmp_path, unpainted="background")
    assert np.array_equal(label.voxels, LABEL.transpose(ZYX))
    assert "are the classes in their order (A, B)" in said(label)
    nrrd(tmp_path / "labels/a.seg.nrrd", part, affine, **segments("liver", "spleen"))
    assert folder(tmp_path, classes=()).classes == ("liver", "spleen")
    with pytest.raises(InputError, match=r"a\.seg\.nrrd: expected a label called A, got liver, spleen"):
        read(tmp_path)
    _, label = read(tmp_path, classes=["spleen"], unpainted="background")
    assert np.array_equal(label.voxels, (LABEL == 2).transpose(ZYX))
    assert "become background (liver)" in said(label)


def test_numbers_that_are_given_count_for_segments_too_and_else_the_numbers_in_their_names(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    expected, mask = LABEL.transpose(ZYX), tmp_path / "labels/a.seg.nrrd"
    (tmp_path / "names.csv").write_text("1,B\n2,A\n")

    def voxels(**options):
        return read(tmp_path, unpainted="background", **options)[1].voxels

    backwards = {f"Segment{k}_{key}": v for k, n in enumerate((2, 1))
                 for key, v in dict(Name=f"Segment_{n}", Layer=0, LabelValue=n).items()}  # fmt: skip
    for fields in (segments("Segment_1", "Segment_2"), backwards):
        nrrd(mask, LABEL, **fields)
        assert np.array_equal(voxels(), expected)
        first = folder(tmp_path, classes=()).classes.index("Segment_1") + 1
        assert np.array_equal(voxels(classes=()) == first, expected == 1)
        assert np.array_equal(voxels(labels=[1, 2]), expected)
        swapped = np.array([0, 2, 1])[expected]
        assert np.array_equal(voxels(labels=[2, 1]), swapped)
        assert np.array_equal(voxels(names=tmp_path / "names.csv"), swapped)
        with pytest.raises(
            InputError, match=r"--labels: expected segments with numbers of the classes, got [12], [12]$"
        ):
            voxels(labels=[5, 7])
    nrrd(mask, LABEL, **segments("A", "B"))
    assert np.array_equal(voxels(labels=[1, 2]), expected)
    for options, given in ((dict(labels=[2, 1]), "--labels"), (dict(names=tmp_path / "names.csv"), "--names .*csv")):
        with pytest.raises(InputError, match=rf"a\.seg\.nrrd: {given} gives A the number 2, but the segment .* has 1;"):
            voxels(**options)
    layers = np.stack([LABEL == 1, LABEL == 2]).astype(np.uint8)  # each is 1 in its own layer
    nrrd(mask, layers, Segment0_Name="A", Segment1_Name="B")
    assert np.array_equal(voxels(labels=[2, 1]), expected)
    nrrd(mask, layers, Segment0_Name="Segment_1", Segment1_Name="Segment_2")
    assert np.array_equal(voxels(), expected)
    with pytest.raises(InputError, match="--labels cannot tell its segments apart, .* as the classes: A, B$"):
        voxels(labels=[2, 1])


def test_segments_that_overlap_are_said(tmp_path):
    layers = np.stack([LABEL > 0, LABEL == 2]).astype(np.uint8)
    nrrd(tmp_path / "a.seg.nrrd", layers, Segment0_Name="A", Segment1_Name="B", Segment1_Layer=1)
    mask = read_mask(tmp_path / "a.seg.nrrd")
    assert np.array_equal(mask.voxels, LABEL.transpose(ZYX))
    assert "overlap; where they do, the later one is taken (8 voxels)" in said(mask)


def test_a_segmentation_may_jut_out_of_the_scan_where_it_is_empty_but_not_lie_between_its_voxels(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    wide, affine = np.pad(LABEL, 2), AFFINE.copy()
    affine[:3, 3] -= AFFINE[:3, :3] @ (2, 2, 2)
    nrrd(tmp_path / "labels/a.seg.nrrd", wide, affine, **segments("A", "B"))
    assert np.array_equal(read(tmp_path, unpainted="background")[1].voxels, LABEL.transpose(ZYX))
    beyond = np.zeros((14, 12, 8), np.uint8)  # from the scan's own corner on
    beyond[:12, :10, :6] = LABEL
    beyond[0, 0, 0] = 1
    nrrd(tmp_path / "labels/a.seg.nrrd", beyond, AFFINE, **segments("A", "B"))
    assert np.array_equal(read(tmp_path, unpainted="background")[1].voxels, beyond[:12, :10, :6].transpose(ZYX))
    wide[0, 0, 0] = 1
    nrrd(tmp_path / "labels/a.seg.nrrd", wide, affine, **segments("A", "B"))
    with pytest.raises(InputError, match=r"a\.seg\.nrrd: expected shape \(6, 10, 12\) of a\.nii\.gz"):
        read(tmp_path)
    aside = AFFINE.copy()
    aside[:3, 3] += AFFINE[:3, 1] * 0.35  # of voxels of 2 mm
    nrrd(tmp_path / "labels/a.seg.nrrd", LABEL[2:-2, 2:-2], aside, **segments("A", "B"))
    with pytest.raises(InputError, match=r"a\.seg\.nrrd: lies between the voxels of a\.nii\.gz, 0\.7 mm off its grid"):
        read(tmp_path)
    fine = LABEL.repeat(2, 0)  # "oversampling" in Slicer
    nrrd(tmp_path / "labels/a.seg.nrrd", fine, AFFINE @ np.diag([0.5, 1, 1, 1]), **segments("A", "B"))
    with pytest.raises(InputError, match=r"voxels of 4 x 2 x 0\.75 mm beside 4 x 2 x 1\.5"):
        read(tmp_path)


def test_names_that_look_alike_are_one_in_whatever_form_a_system_wrote_them(tmp_path):
    composed, apart = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    for name in (composed, "b"):
        nii(tmp_path / "images" / f"{name}.nii.gz", IMAGE)
    nii(tmp_path / "labels" / f"{apart}.nii.gz", LABEL)
    cases = {case.name: case for case in folder(tmp_path, val=[apart]).cases()}
    assert cases[composed].labels[0].name == f"{apart}.nii.gz"
    assert (cases[composed].split, cases["b"].split) == ("val", "train")
    assert pick(tmp_path / "images", tmp_path / "picked", skip=[apart])[0].scan == "b"
    nii(tmp_path / "images" / f"{apart}.nii.gz", IMAGE)
    for look in (folder(tmp_path).cases, lambda: pick(tmp_path / "images", tmp_path / "picked")):
        with pytest.raises(InputError, match="the same name as"):
            look()


def test_masks_are_found_under_what_viewers_call_them_and_beside_the_scans(tmp_path):
    nii(tmp_path / "a.nii.gz", IMAGE)
    nii(tmp_path / "b_mask.nii.gz", IMAGE)  # no mask of any scan
    nii(tmp_path / "a-label.nii.gz", LABEL)
    assert {c.name: c.labels and c.labels[0].name for c in folder(tmp_path).cases()} == {
        "a": "a-label.nii.gz", "b_mask": None,
    }  # fmt: skip
    nrrd(tmp_path / "b_mask.seg.nrrd", LABEL, **segments("A", "B"))  # beside the scan, as Slicer saves it
    assert {c.name: c.labels[0].name for c in folder(tmp_path).cases()} == {
        "a": "a-label.nii.gz", "b_mask": "b_mask.seg.nrrd",
    }  # fmt: skip
    assert folder(tmp_path, classes=()).classes == ("A", "B")
    shifted = AFFINE.copy()
    shifted[0, 3] += 7
    nii(tmp_path / "more/images/c.nii.gz", IMAGE)
    nii(tmp_path / "more/images/d.nii.gz", IMAGE, shifted)
    nii(tmp_path / "more/labels/Untitled.nii.gz", LABEL, shifted)  # lies on the grid of d alone
    read = folder(tmp_path / "more")
    told = "labelled by a mask of another name, because it lies on this scan's grid alone"
    assert [c.name for c in read.cases() if c.labels] == ["d"]
    assert [(told, "Untitled.nii.gz") in read.read(case)[0].notes for case in read.cases()] == [False, True]
    nii(tmp_path / "more/labels/c-label.nii.gz", LABEL)
    assert [(told, "c-label.nii.gz") in read.read(case)[0].notes for case in read.cases()] == [False, False]
    for k in range(4):  # masks that are called as their scans, however many, leave it at that
        nii(tmp_path / f"more/images/named{k}.nii.gz", IMAGE)
        nii(tmp_path / f"more/labels/named{k}.nii.gz", LABEL)
    assert all(case.labels for case in folder(tmp_path / "more").cases())
    nii(tmp_path / "more/images/e.nii.gz", IMAGE, shifted)
    with pytest.raises(
        InputError, match=r"Untitled\.nii\.gz: lies on the grid of 2 scans: d, e; name it as one of them$"
    ):
        folder(tmp_path / "more").cases()
    shifted[1, 3] += 7
    nii(tmp_path / "more/labels/Untitled.nii.gz", LABEL, shifted)
    with pytest.raises(InputError, match=r"Untitled\.nii\.gz: a label without its image in .*; call it as its scan: "):
        folder(tmp_path / "more").cases()


def test_slices_that_nobody_painted_are_unknown_where_few_are_painted(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "images/b.nii.gz", IMAGE + 1)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    nii(tmp_path / "labels/b.nii.gz", LABEL * 0)
    data = prepare(folder(tmp_path, val=["a"]), tmp_path / "out", size=16, workers=1)
    label = data.volume("a")["label"]
    assert np.array_equal(label[3], LABEL[..., 3].T)
    assert (np.delete(label, 3, 0) == 255).all()
    assert "painted on few slices: the others are unknown" in str(data.case("a")["notes"])
    assert not data.case("b")["labelled"]
    assert "nothing is painted; it counts as unlabelled" in str(data.case("b")["notes"])
    data = prepare(folder(tmp_path, unpainted="background"), tmp_path / "other", size=16, workers=1)
    assert (np.delete(data.train_labels(), 3, 0) == 0).all()
    assert data.case("b")["labelled"]


@pytest.mark.parametrize(
    ("painted", "unknown"), [([3], True), ([0, 2, 5], True), ([2, 3], False), (range(6), False), ([0, 1, 5], False)]
)
def test_few_slices_are_a_tenth_or_no_two_neighbours(painted, unknown, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 2:5, list(painted)] = 1
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", mask)
    assert (read(tmp_path, classes=["A"])[1].voxels == 255).any() == unknown
    assert (read(tmp_path, classes=["A"], unpainted="unknown")[1].voxels == 255).any() == (len(painted) < 6)
    mask[9:, 8:, painted[0]] = 255  # a slice painted in part
    nii(tmp_path / "labels/a.nii.gz", mask)
    label = read(tmp_path, classes=["A"], unpainted="unknown")[1].voxels
    assert (label == 255).all((1, 2)).nonzero()[0].tolist() == sorted(set(range(6)) - set(painted))


def test_up_to_three_masks_of_other_names_are_looked_for_by_their_place(tmp_path):
    affines = [AFFINE.copy() for _ in range(4)]
    for k, affine in enumerate(affines):
        affine[0, 3] += 10 * k
        nii(tmp_path / f"images/s{k}.nii.gz", IMAGE, affine)
    for k in (2, 0, 1):
        nii(tmp_path / f"labels/Untitled{k}.nii.gz", LABEL, affines[k])
    (tmp_path / "images/damaged.nii.gz").write_bytes(b"")  # of which reading it tells
    cases = {name: labels and labels[0].name for name, _, _, labels in folder(tmp_path).find()[0]}
    assert cases == {"damaged": None, "s3": None, **{f"s{k}": f"Untitled{k}.nii.gz" for k in range(3)}}
    nii(tmp_path / "labels/Untitled3.nii.gz", LABEL, affines[3])
    rows, problems = folder(tmp_path).find()
    assert not any(labels for *_, labels in rows)
    assert [problem.split(": ")[0] for problem in problems] == [
        f"{tmp_path}/labels/Untitled{k}.nii.gz" for k in range(4)
    ]
    assert "a label without its image in" in problems[0]


def test_a_mask_that_fits_several_scans_or_none_names_three_of_them(tmp_path):
    for name in ("anna", "anne", "anni"):
        nii(tmp_path / f"images/{name}.nii.gz", IMAGE)
    nii(tmp_path / "labels/x.nii.gz", LABEL)

    def problem():
        (only,) = folder(tmp_path).find()[1]
        return only.removeprefix(f"{tmp_path}/labels/x.nii.gz: ")

    assert problem() == "lies on the grid of 3 scans: anna, anne, anni; name it as one of them"
    nii(tmp_path / "images/anno.nii.gz", IMAGE)
    nii(tmp_path / "images/zoe.nii.gz", IMAGE[1:])
    assert problem() == "lies on the grid of 4 scans: anna, anne, anni …; name it as one of them"
    beside = AFFINE.copy()
    beside[0, 3] += 300
    nii(tmp_path / "labels/x.nii.gz", LABEL, beside)  # on none, and called as none
    assert problem() == f"a label without its image in {tmp_path}/images; call it as its scan: anna, anne, anni"
    (tmp_path / "labels/x.nii.gz").rename(tmp_path / "labels/ann.nii.gz")
    (only,) = folder(tmp_path).find()[1]
    assert re.search(r"call it as its scan: ann[aeio], ann[aeio], ann[aeio]$", only)
    (tmp_path / "labels/ann.nii.gz").rename(tmp_path / "labels/zo.nii.gz")
    (only,) = folder(tmp_path).find()[1]
    assert "call it as its scan: zoe" in only
    nii(tmp_path / "labels/zoe-label.nii.gz", LABEL)
    nii(tmp_path / "labels/zoe.nii.gz", LABEL)
    second = f"{tmp_path}/labels/zoe.nii.gz: a second label of zoe, beside zoe-label.nii.gz; keep one of them"
    assert second in folder(tmp_path).find()[1]
    bare = tmp_path / "bare"
    nii(bare / "labels/x.nii.gz", LABEL)
    (bare / "images").mkdir()
    (only,) = folder(bare).find()[1]
    assert only.endswith(f"a label without its image in {bare}/images; call it as its scan: none")


def test_five_things_beside_the_folders_are_four_and_more(tmp_path, capsys):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    for name in "bcdef":
        nii(tmp_path / f"{name}.nii.gz", IMAGE)
    png(tmp_path / "look.png", IMAGE[..., 0].astype(np.uint16))  # beside volumes no scan
    folder(tmp_path).find()
    names = "b.nii.gz, c.nii.gz, d.nii.gz, e.nii.gz, …"
    assert (
        f"{tmp_path}: {names}: passed over; scans are read from images, masks from labels\n" in capsys.readouterr().err
    )
    pictures = tmp_path / "pictures"
    for path in (pictures / "images/a.png", pictures / "b.png"):
        png(path, IMAGE[..., 0].astype(np.uint16))
    folder(pictures).find()
    assert f"{pictures}: b.png: passed over;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(labels=[1, 2**31]), "--labels: expected numbers that masks hold, below 2147483648, got 2147483648"),
        (dict(labels=[-(2**31), 2]), "below 2147483648, got -2147483648"),
        (dict(labels=[0, 2]), "--labels: expected 2 different numbers other than 0"),
        (dict(channel=-1), "--channel: expected 0 or more, got -1"),
        (dict(modality="pet"), "--modality: expected mr or ct, got 'pet'"),
        (dict(unpainted="none"), "--unpainted: expected auto, unknown, background, got 'none'"),
        (dict(names="n.csv", labels=[1, 2]), "--names and --labels both give the numbers of the classes"),
        (dict(classes=()), "--classes: a folder of scans needs its foreground classes"),
    ],
)
def test_an_option_of_a_folder_that_is_none_is_named(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        folder(tmp_path, **options)
    taken = folder(tmp_path, labels=[2**31 - 1, 1 - 2**31], channel=0, modality="ct", unpainted="unknown")
    assert (taken.labels, taken.channel, taken.modality) == ([2**31 - 1, 1 - 2**31], 0, "ct")
    assert taken.reading() == dict(channel=0, fill_nan=False)
    assert taken.settings()["labels"] == [2**31 - 1, 1 - 2**31]
    assert "ignored" not in taken.settings()


def test_numbers_that_no_class_has_are_dropped_and_five_of_them_named(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:9, 2, 0] = 3, 4, 5, 6, 7, 8, 9
    mask[2:4, 3, 0] = 255, 10
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", mask)
    _, label = read(tmp_path, labels=[10, 4])
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:4, 3, 0], expected[3, 2, 0] = (255, 1), 2
    assert np.array_equal(label.voxels, expected.transpose(ZYX))
    assert "become background (3, 5, 6, 7, 8)" in said(label)
    assert "neither learned from nor measured on (1 of 720)" in said(label)
    _, label = read(tmp_path, labels=[255, 4], unpainted="background")  # 255 is a class here
    expected[2:4, 3, 0] = 1, 0
    assert np.array_equal(label.voxels, expected.transpose(ZYX))
    assert "become background (3, 5, 6, 7, 8)" in said(label)
    mask[mask > 4] = 0
    mask[mask == 3] = 0
    nii(tmp_path / "labels/a.nii.gz", mask)
    assert "become background" not in said(read(tmp_path, labels=[9, 4], unpainted="background")[1])


@pytest.mark.parametrize(
    ("depth", "painted", "unknown"),
    [
        (20, [4, 5], True),  # a tenth
        (20, [4, 5, 6], False),
        (19, [4, 5], False),
        (20, [0, 2, 4, 6, 8, 10, 12], True),
        (20, [18, 19, 0], False),
        (1, [0], False),
    ],
)
def test_a_tenth_of_the_slices_is_few(depth, painted, unknown, tmp_path):
    image, mask = np.random.default_rng(0).random((8, 7, depth)), np.zeros((8, 7, depth), np.uint8)
    for z in painted:
        mask[2:5, 1 + z % 3 : 5, z] = 1
    nii(tmp_path / "images/a.nii.gz", image)
    nii(tmp_path / "labels/a.nii.gz", mask)
    _, label = read(tmp_path, classes=["A"])
    empty = np.setdiff1d(range(depth), painted)
    expected = mask.copy()
    expected[..., empty] = 255 * unknown
    assert np.array_equal(label.voxels, expected.transpose(ZYX))
    assert (f"--unpainted background: they are background) ({len(painted)} of {depth})" in said(label)) == unknown


def test_a_row_or_a_column_of_three_slices_is_painted_across_them(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    mask = np.zeros(SHAPE, np.uint8)

    def painted(*box):
        mask[:] = 0
        mask[box] = 1
        nii(tmp_path / "labels/a.nii.gz", mask)
        return lambda **options: read(tmp_path, classes=["A"], **options)

    for box, line, count in (
        ((slice(2, 9), 4, slice(1, 4)), "row", 3), ((5, slice(2, 9), slice(1, 4)), "column", 3),
        ((0, slice(2, 9), slice(0, 6)), "column", 6),
    ):  # fmt: skip
        across = painted(*box)
        with pytest.raises(
            InputError, match=rf"painted on one {line} of each of {count} slices, across them; expected"
        ):
            across()
        assert np.array_equal(across(unpainted="background")[1].voxels, mask.transpose(ZYX))
        assert across(unpainted="unknown")[1].voxels.max() == (255 if count < 6 else 1)
    for box in ((slice(2, 9), 4, slice(1, 3)), (5, 4, slice(1, 5)), (slice(2, 9), slice(4, 6), slice(1, 5))):
        painted(*box)()  # two slices; a line along the slices' axis; two rows
    nii(tmp_path / "images/a.nii.gz", IMAGE[:, :1])  # of one row all are painted on it
    nii(tmp_path / "labels/a.nii.gz", np.ones((12, 1, 6), np.uint8))
    assert (read(tmp_path, classes=["A"])[1].voxels == 1).all()


def test_nan_become_the_smallest_value_and_infinite_voxels_stay():
    voxels = np.array([[[np.nan, np.inf, -3.0], [np.nan, 7.0, -np.inf]]], np.float32)
    finite = voxels.copy()
    finite[np.isinf(finite)] = 2
    assert filled(Volume(finite, (1, 1, 1), np.eye(4))).voxels.tolist() == [[[-3, 2, -3], [-3, 7, 2]]]
    assert filled(Volume(voxels, (1, 1, 1), np.eye(4))).voxels.tolist() == [
        [[-np.inf, np.inf, -3], [-np.inf, 7, -np.inf]]
    ]
    for whole in (np.arange(6), np.full(6, np.nan), np.ones(6)):
        volume = Volume(whole.reshape(1, 2, 3), (1, 1, 1), np.eye(4))
        assert filled(volume) is volume


def test_masks_lie_in_labels_or_beside_scans_that_lie_in_the_folder_itself(tmp_path):
    for name in ("a", "a_mask"):
        nii(tmp_path / f"one/images/{name}.nii.gz", IMAGE)  # without labels each is a scan
        nii(tmp_path / f"two/{name}.nii.gz", IMAGE)
        nii(tmp_path / f"three/{name}.nii.gz", IMAGE)
    nii(tmp_path / "three/labels/a-label.nii.gz", LABEL)
    found = {root: {name: labels and labels[0].name for name, _, _, labels in folder(tmp_path / root).find()[0]}
             for root in ("one", "two", "three")}  # fmt: skip
    assert found == dict(
        one={"a": None, "a_mask": None}, two={"a": "a_mask.nii.gz"}, three={"a": "a-label.nii.gz", "a_mask": None}
    )


def test_what_cannot_be_read_as_cases_are_found_is_named_beside_the_rest(tmp_path):
    dicom(tmp_path / "images/p", IMAGE)
    (tmp_path / "images/p/IM0004.dcm").unlink()
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    (tmp_path / "labels/Untitled.nii.gz").write_bytes(b"")
    rows, problems = folder(tmp_path).find()
    assert [(name, labels[0].name) for name, _, _, labels in rows] == [("a", "a.nii.gz")]
    (mask, series) = problems
    assert mask.startswith(f"{tmp_path}/labels/Untitled.nii.gz: truncated or not a NIfTI file")
    assert "expected slices 4 mm apart, got 8 mm between" in series


def test_the_sheet_of_pick_is_no_mask_but_of_a_scan_called_so(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    png(tmp_path / "labels/slices.png", LABEL[..., 3].T.copy())
    assert folder(tmp_path).find()[1] == []
    for place, array in (("images", IMAGE[..., 0].astype(np.uint16)), ("labels", LABEL[..., 3])):
        png(tmp_path / f"own/{place}/slices.png", array.T.copy())
    (case,) = folder(tmp_path / "own").cases()
    assert [path.name for path in case.labels] == ["slices.png"]


def test_a_class_that_a_mask_does_not_name_has_no_voxels_in_it(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nrrd(tmp_path / "labels/a.seg.nrrd", LABEL, **segments("liver", "spleen"))
    _, label = read(tmp_path, classes=["kidney", "spleen"], unpainted="background", modality="ct")
    assert np.array_equal(label.voxels, np.array([0, 0, 2])[LABEL.transpose(ZYX)])
    assert "become background (liver)" in said(label)
    assert not read(tmp_path, classes=["liver", "spleen"], modality="ct")[0].notes  # NIfTI tells no modality


def test_a_segmentation_in_dicom_gives_the_classes_their_names(tmp_path):
    need("highdicom")
    dicom(tmp_path / "images/p", IMAGE)
    scan = scan_files(tmp_path / "images")[0]["p"]
    mask = np.zeros(read_grid(scan).voxels.shape, np.uint8)
    mask[1, 2:5, 3:5], mask[1, 6, 1] = 1, 2
    content = encoded(scan, "p.dcm", mask, ("liver", "spleen"), colors=class_colors(2))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/p.dcm").write_bytes(content)
    found = folder(tmp_path, classes=(), unpainted="background")
    assert found.classes == ("liver", "spleen")
    (case,) = found.cases()
    assert np.array_equal(found.read(case)[1].voxels, mask)
    (source,) = found.sources(case.images)
    assert (source["path"], source["files"]) == ("images/p", 6)


def test_names_that_itk_snap_gives_by_itself_stay_where_there_are_no_others(tmp_path, capsys):
    for rows in (((1, "Label 1"), (2, "Label 2")), ((1, "liver"), (2, "spleen"))):
        (tmp_path / "snap.txt").write_text("".join(f'{n} 255 0 0 1 1 1 "{name}"\n' for n, name in rows))
        nii(tmp_path / "images/a.nii.gz", IMAGE)
        found = folder(tmp_path, classes=(), names=tmp_path / "snap.txt")
        assert (found.classes, found.labels) == (tuple(name for _, name in rows), [1, 2])
    assert capsys.readouterr().err == ""


def test_a_channel_of_an_image_is_said_to_be_its_only_one(tmp_path):
    png(tmp_path / "a.png", IMAGE[..., 0].astype(np.uint16))
    assert "it has one channel, which is read (channel 1 was asked for)" in said(read_scan(tmp_path / "a.png", 1))
    assert "one channel" not in said(read_scan(tmp_path / "a.png"))


def test_a_slice_that_was_painted_across_the_scans_own_is_refused(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:9, 4, 1:5] = 1
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", mask)
    two = np.zeros(SHAPE, np.uint8)
    two[2:9, 4, [1, 3]] = 1  # a row in either of two slices is no slice across them
    nii(tmp_path / "two/images/a.nii.gz", IMAGE)
    nii(tmp_path / "two/labels/a.nii.gz", two)
    assert (read(tmp_path / "two", classes=["A"])[1].voxels == 255).any()
    with pytest.raises(InputError, match=r"labels/a\.nii\.gz: painted on one row of each of 4 slices, across them"):
        read(tmp_path, classes=["A"])
    found = folder(tmp_path, classes=["A"])
    found.axes = "PRS"  # of most scans
    with pytest.raises(InputError, match="along the scan's last axis, orientations differ; turned to PRS"):
        found.read(found.cases()[0])


def test_a_crop_does_not_count_unknown_voxels_as_cut_off(tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    data = prepare(folder(tmp_path), tmp_path / "out", size=16, workers=1, pixel=1.0)
    assert data.case("a")["label_cut"] == 0


NAMES = {
    "snap.txt": '# ITK-SnAP Label Description File\n    0     0    0    0        0  0  0    "Clear Label"\n'
    '    5   255    0    0        1  1  1    "left kidney"\n   12     0  255    0     0.5  1  1    "liver"\n',
    "slicer.ctbl": "# Color table file x.ctbl\n# 3 values\n0 Background 0 0 0 0\n5 left_kidney 255 0 0 255\n"
    "12 liver 0 255 0 255\n",
    "slicer.csv": "LabelValue,Name,Color_R\n0,Background,0\n5,left kidney,255\n12,liver,0\n",
    "plain.csv": "left kidney;5\nliver;12\n",
    "names.tsv": "id\tname\n5\tleft kidney\n12\tliver\n",
    "ids.json": '{"5": "left kidney", "12": "liver"}',
    "dataset.json": '{"labels": {"background": 0, "left kidney": 5, "liver": 12}, "channel_names": {"0": "CT"}}',
}


@pytest.mark.parametrize("file", NAMES)
def test_names_of_labels_give_the_classes_and_their_numbers(file, tmp_path):
    (tmp_path / file).write_text(NAMES[file])
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", np.array([0, 12, 5], np.uint8)[LABEL])
    assert {number: name.replace("_", " ") for number, name in read_label_names(tmp_path / file).items()} == {
        5: "left kidney", 12: "liver",
    }  # fmt: skip
    options = dict(names=tmp_path / file, unpainted="background")
    assert folder(tmp_path, classes=(), **options).labels == [5, 12]
    _, label = read(tmp_path, classes=["Liver", "left_kidney"], **options)
    assert np.array_equal(label.voxels, LABEL.transpose(ZYX))
    nii(tmp_path / "labels/a.nii.gz", np.array([0, 12, 255], np.uint8)[LABEL])  # what nobody annotated stays that
    assert np.array_equal(
        read(tmp_path, classes=["Liver"], **options)[1].voxels, np.array([0, 1, 255])[LABEL.transpose(ZYX)]
    )
    with pytest.raises(InputError, match=f"--names .*{file}: expected a label called spleen, got left.kidney, liver"):
        folder(tmp_path, classes=["spleen"], **options)


def test_what_nnunet_ignores_is_unknown_and_no_class(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "A": 1, "ignore": 2}}')
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    found = folder(tmp_path, classes=(), names=tmp_path / "dataset.json")
    assert found.classes == ("A",)
    _, label = found.read(found.cases()[0])
    assert np.array_equal(label.voxels, np.array([0, 1, 255])[LABEL.transpose(ZYX)])
    assert "voxels marked as unknown" in said(label)
    named = folder(tmp_path, classes=["A", "Ignore"], names=tmp_path / "dataset.json")
    assert named.read(found.cases()[0])[1].voxels.max() == 255  # of slices that nobody painted
    assert named.labels == [1, 2]
    assert found.settings() != named.settings()


def test_names_that_itk_snap_gives_by_itself_are_classes_where_a_mask_uses_them(tmp_path, capsys):
    rows = ((1, "liver"), (2, "Label 2"), (4, "Label 4"), (5, "Label 5"))
    text = "".join(f'{number} 255 0 0 1 1 1 "{name}"\n' for number, name in rows)
    (tmp_path / "snap.txt").write_text(text)
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "images/b.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    found = folder(tmp_path, classes=(), names=tmp_path / "snap.txt")
    assert (found.classes, found.labels) == (("liver", "Label 2"), [1, 2])
    assert "snap.txt: Label 4, Label 5: no mask uses them; they are no classes" in capsys.readouterr().err
    assert folder(tmp_path, classes=["Label 5"], names=tmp_path / "snap.txt").labels == [5]
    nii(tmp_path / "labels/b.nii.gz", np.array([0, 5, 1], np.uint8)[LABEL])
    assert folder(tmp_path, classes=(), names=tmp_path / "snap.txt").classes == ("liver", "Label 2", "Label 5")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "{",
        "[1]",
        '{"a": [1]}',
        '{"a": true}',
        '{"a": 1, "a": 2}',
        "1,a\n1,b\n",
        "1,a\n2,A\n",
        "1,a_b\n2,a b\n",
        "\0" * 9,
        "a b c\n",
    ],
)
def test_what_names_no_labels_ends_in_one_line(text, tmp_path):
    (tmp_path / "n.csv").write_text(text)
    with pytest.raises(InputError, match=r"n\.csv: ") as caught:
        read_label_names(tmp_path / "n.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "known", "channels"),
    [
        (["p_0000", "p_0001", "q_0000", "q_0001"], [], ["p", "q"]),
        (["p_0000", "p_0001", "q_0000", "q_0001", "r_0000"], ["p"], ["p", "q", "r"]),
        (["p_0000", "p_0001"], [], ["p"]),
        (["p_0000", "p_0001", "q_0000"], [], ["p", "q"]),
        ([f"p_000{k}" for k in range(5)], [], None),
        (["amos_0001", "amos_0002"], [], None),
        (["p_0001", "p_0012", "q_0001", "q_0010"], ["p_0001"], None),  # frames
        (["p_0000", "p_0001", "q_0000", "q_0001", "r"], [], None),
        (["p_0000", "p_0001", "q_0000", "q_0001"], ["p_0000"], None),  # frames perhaps
    ],
)
def test_channels_are_told_from_patients(names, known, channels, tmp_path, capsys):
    found, problems = choose_channel({name: tmp_path / name for name in names}, 0, known)
    assert sorted(found) == (channels or names)
    assert not problems
    doubtful = known == ["p_0000"]
    assert ("if they are channels, call the label p\n" in capsys.readouterr().err) == doubtful


# NRRD


def test_an_nrrd_scan_is_read_as_the_same_scan_in_nifti(tmp_path):
    nii(tmp_path / "a.nii", IMAGE)
    expected = read_scan(tmp_path / "a.nii")
    for encoding in ("gzip", "raw"):
        nrrd(tmp_path / "a.nrrd", IMAGE, encoding=encoding)
        found = read_scan(tmp_path / "a.nrrd")
        assert np.array_equal(found.voxels, expected.voxels)
        assert found.spacing == expected.spacing
        np.testing.assert_allclose(found.affine, expected.affine)
    for space, signs in (("right-anterior-superior", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))):
        nrrd(tmp_path / "a.nrrd", IMAGE, header=dict(space=space))
        np.testing.assert_allclose(read_scan(tmp_path / "a.nrrd").affine, np.diag([*signs, 1]) @ AFFINE)
    nrrd(tmp_path / "a.nrrd", IMAGE, header={"space": None, "space directions": None, "spacings": "1.5 2 4"})
    found = read_scan(tmp_path / "a.nrrd")
    assert (found.spacing, found.frames) == ((4, 2, 1.5), ())
    nrrd(tmp_path / "a.nrrd", np.stack([IMAGE, IMAGE + 1]))
    assert np.array_equal(read_scan(tmp_path / "a.nrrd", 1).voxels, expected.voxels + 1)
    nrrd(tmp_path / "b.nrrd", IMAGE[None])  # a list of one
    assert np.array_equal(read_scan(tmp_path / "b.nrrd").voxels, expected.voxels)
    assert np.array_equal(read_mask(tmp_path / "b.nrrd").voxels, expected.voxels)
    assert "channel 3 was asked for" in said(read_scan(tmp_path / "b.nrrd", 3))
    with pytest.raises(InputError, match=r"a\.nrrd: expected a 3-D volume, got sizes \[2, 12, 10, 6\]; --channel N"):
        read_scan(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": "30000 30000 30000"}, "truncated: shape .* is 54,000,000,000,000 bytes"),
        ({"sizes": "12 10 7"}, "truncated: expected 1,680 bytes of voxels, got 1,440"),
        ({"sizes": "12 -10 6"}, "expected axes of one voxel or more"),
        ({"data file": "/etc/passwd"}, "expected the voxels in the same file"),
        ({"byte skip": "-1"}, "right after the header"),
        ({"type": "block"}, "expected one real number per voxel, got type 'block'"),
        ({"encoding": "hex"}, "expected encoding raw, gzip or bzip2, got 'hex'"),
        ({"space directions": "(0,0,0) (0,0,0) (0,0,0)"}, "three independent directions"),
        ({"dimension": "x"}, "truncated or not an NRRD file"),
    ],
)
def test_an_odd_nrrd_file_ends_in_one_line(fields, message, tmp_path):
    nrrd(tmp_path / "a.nrrd", IMAGE, header=fields)
    with pytest.raises(InputError, match=rf"a\.nrrd: .*{message}") as caught:
        read_scan(tmp_path / "a.nrrd")
    assert "\n" not in str(caught.value)


def test_a_compressed_nrrd_file_is_compared_with_its_checksum(tmp_path):
    nrrd(tmp_path / "a.nrrd", IMAGE)
    whole = (tmp_path / "a.nrrd").read_bytes()
    for content in (whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], whole[:-8]):
        (tmp_path / "a.nrrd").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.nrrd: truncated or not an NRRD file \(C"):
            read_scan(tmp_path / "a.nrrd")


def test_any_bytes_of_nrrd_end_in_a_volume_or_in_one_line(tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "a.seg.nrrd"
    nrrd(path, LABEL, **segments("A", "B"))
    spoil(path, read_mask, random, 400)


def spoil(path, read, random, reach):
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        content = whole.copy()
        content[random.integers(0, min(reach, len(whole)), 4)] = random.integers(0, 256, 4)
        path.write_bytes(content[: random.integers(1, len(whole)) if random.random() < 0.3 else None].tobytes())
        try:
            lines = [f"{path}: "] * (read(path).voxels.ndim == 3)
        except InputError as error:
            lines = str(error).splitlines()
        assert len(lines) == 1
        assert str(path.parent) in lines[0]


def test_formats_whose_library_is_absent_say_which_extra_brings_it(tmp_path, monkeypatch):
    nrrd(tmp_path / "a.nrrd", IMAGE)
    dicom(tmp_path / "b", IMAGE)
    monkeypatch.setitem(sys.modules, "nrrd", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"a\.nrrd: reading it needs nrrd: pip install 'cmems\[formats\]'"):
        read_scan(tmp_path / "a.nrrd")
    with pytest.raises(InputError, match=r"reading it needs pydicom: pip install 'cmems\[dicom\]'"):
        folder(tmp_path).cases()


# DICOM


def test_series_are_told_apart_and_stacked_by_position(tmp_path):
    hounsfield = IMAGE - 600
    tilted = np.eye(4)
    tilted[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
    dicom(tmp_path / "one", hounsfield, tilted @ AFFINE)
    dicom(tmp_path / "two", hounsfield, series="1.2.1", number=1, names="A{}")  # without an ending
    dicom(tmp_path / "two", hounsfield + 5, series="1.2.2", number=2, names="B{}")
    dicom(tmp_path / "two", IMAGE, series="1.2.3", number=9, names="C{}", ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    found, problems = scan_files(tmp_path)
    assert (sorted(found), problems) == (["one", "two_s1", "two_s2"], [])
    volume = read_scan(found["one"])
    assert np.array_equal(volume.voxels, hounsfield.transpose(ZYX))
    np.testing.assert_allclose(volume.affine, tilted @ AFFINE, atol=1e-9)
    np.testing.assert_allclose(volume.spacing, (4, 2, 1.5))
    assert np.array_equal(read_scan(found["two_s2"]).voxels, hounsfield.transpose(ZYX) + 5)
    assert read_grid(found["two_s1"]).voxels.shape == (6, 10, 12)
    (one, *_) = folder(tmp_path).cases()
    assert "another modality (--modality ct is for CT in HU) (CT, scaled as mr)" in said(folder(tmp_path).read(one)[0])
    assert "modality" not in said(folder(tmp_path, modality="ct").read(one)[0])


def test_compressed_and_inverted_slices_are_read_and_reports_passed_over(tmp_path):
    pydicom = need("pydicom")
    dicom(tmp_path / "p", IMAGE, PhotometricInterpretation="MONOCHROME1", Modality="MR")
    one = pydicom.dcmread(tmp_path / "p/IM0003.dcm")
    one.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    one.save_as(tmp_path / "p/IM0003.dcm")
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # a report
    del one.PixelData, one.Rows
    one.save_as(tmp_path / "p/report.dcm")
    volume = read_scan(scan_files(tmp_path)[0]["p"])
    assert np.array_equal(volume.voxels, IMAGE.max() + IMAGE.min() - IMAGE.transpose(ZYX))
    assert "inverted" in said(volume)


TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    "axes",
    [np.eye(3), np.diag([-1, -1, 1]), np.diag([1, -1, -1]), np.eye(3)[[2, 0, 1]], TURN, np.eye(3)[[1, 2, 0]] @ TURN],
    ids=["RAS", "LPS", "RPI", "sagittal", "turned", "oblique"],
)
def test_a_segmentation_lies_on_its_series_however_that_lies(axes, tmp_path):
    need("highdicom")
    affine = AFFINE.copy()
    affine[:3, :3] = axes @ affine[:3, :3]
    dicom(tmp_path / "p", IMAGE, affine)
    scan = scan_files(tmp_path)[0]["p"]
    grid = read_grid(scan)
    painted = np.zeros(grid.voxels.shape, np.uint8)
    painted[1:3, 2:7, 3:5], painted[4, 1, 1] = 1, 2
    (tmp_path / "m.dcm").write_bytes(encoded(scan, "m.dcm", painted, "AB", colors=class_colors(2)))
    assert np.array_equal(lay_on(read_mask(tmp_path / "m.dcm"), grid, tmp_path / "m.dcm", scan).voxels, painted)
    nii(tmp_path / "m.nii.gz", np.ascontiguousarray(painted.transpose(ZYX)), grid.affine)
    nii(tmp_path / "s.nii.gz", IMAGE, affine)  # the same scan, converted: its slices may run the other way
    there = lay_on(read_mask(tmp_path / "m.nii.gz"), read_grid(tmp_path / "s.nii.gz"), tmp_path, tmp_path)
    assert IMAGE.transpose(ZYX)[there.voxels == 1].sum() == read_scan(scan).voxels[painted == 1].sum()


def odd_gap(path, by=0.9, axis=2):
    import pydicom

    one = pydicom.dcmread(path)
    one.ImagePositionPatient[axis] += by
    one.save_as(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "IM0004.dcm").unlink(), r"expected slices 4 mm apart, got 8 mm between .*; is one missing\?"),
        (lambda f: odd_gap(f / "IM0004.dcm"), "expected slices 4 mm apart, got .* mm between"),
        (lambda f: odd_gap(f / "IM0004.dcm", by=4), "lie at one place; expected one volume, got several"),
        (lambda f: dicom(f, IMAGE, slices=[0], Rows=5), "Rows differ|expected pixels"),
        (lambda f: dicom(f, IMAGE, slices=[0], PixelSpacing=[1, 1]), "PixelSpacing differ"),
        (lambda f: dicom(f, IMAGE, slices=[0], PixelSpacing=None), "PixelSpacing: expected 2 numbers, got None"),
        (lambda f: dicom(f, IMAGE, ImageOrientationPatient=[-1, 0, 0, 0, -0.8, -0.6]), "aside of the last"),
        (lambda f: odd_gap(f / "IM0003.dcm", axis=0, by=5), r"behind one another, got IM0003\.dcm 5 mm aside"),
        (lambda f: dicom(f, IMAGE, slices=[2], NumberOfFrames=4), "expected one slice in each file, got 4"),
        (lambda f: dicom(f, IMAGE, slices=[2], SamplesPerPixel=3), "expected one real number per voxel"),
        (lambda f: dicom(f, IMAGE, PhotometricInterpretation="PALETTE COLOR"), "per voxel, got PALETTE COLOR"),
        (lambda f: dicom(f, IMAGE, slices=range(6), Rows=30000, Columns=30000), "truncated: shape"),
        (lambda f: dicom(f, IMAGE, slices=[1], Rows=None), r"IM0005\.dcm: Rows: expected a value, got none"),
        (
            lambda f: dicom(f, IMAGE, slices=[1], SeriesInstanceUID=None),
            "SeriesInstanceUID: expected a value, got none",
        ),
        (lambda f: dicom(f, IMAGE, slices=[1], Rows=9), "IM0005.dcm: truncated or not|Rows differ"),
        (lambda f: (f / "IM0000.dcm").write_bytes(b"\0" * 400), r"IM0000\.dcm: truncated or not a DICOM file"),
    ],
)
def test_a_series_that_is_no_volume_ends_in_one_line(change, message, tmp_path):
    dicom(tmp_path / "p", IMAGE)
    change(tmp_path / "p")
    found, problems = scan_files(tmp_path)
    if not problems:
        with pytest.raises(InputError) as caught:
            read_scan(found["p"])
        problems = str(caught.value).splitlines()
    assert len(problems) == 1
    assert re.search(message, problems[0]), problems


SEVERAL = dict(
    anonymised=dict.fromkeys(
        ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
         "StudyTime", "SliceThickness", "FrameOfReferenceUID", "StudyInstanceUID")
    ),
    emptied=dict(
        PatientSex="ANON", PatientBirthDate="19700000", StudyDate="00000000", StudyTime="x", SliceThickness=""),
    japanese=dict(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"),
    misspelt=dict(SpecificCharacterSet="ISO-IR 100", PatientName="Müller^Jörg"),
    lying=dict(SpacingBetweenSlices=1.0),
)  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_segmentation_of_a_scan_is_written_and_read_back_whatever_its_header_lacks(kind, tmp_path):
    need("highdicom")
    dicom(tmp_path / "p", IMAGE, **SEVERAL[kind])
    painted = there_and_back(tmp_path / "p/IM0000.dcm", ("肝", "Drüse"))
    header = need("pydicom").dcmread(tmp_path / "m.dcm")
    assert painted.names == {1: "肝", 2: "Drüse"}
    if name := SEVERAL[kind].get("PatientName"):
        assert str(header.PatientName) == name


def there_and_back(scan, classes):
    """Write a mask of a scan beside its folder, read it back, and lay it on the scan."""
    grid, path = read_grid(scan), scan.parent.parent / "m.dcm"
    painted = np.zeros(grid.voxels.shape, np.uint8)
    painted[0, 2:7, 3:5], painted[-1, 1, 1] = 1, 2
    path.write_bytes(encoded(scan, "m.dcm", painted, classes, colors=class_colors(2)))
    mask = read_mask(path)
    assert np.array_equal(lay_on(mask, grid, path, scan).voxels, painted)
    return mask


@pytest.mark.parametrize(("gap", "digits"), [(1.25, 1), (0.625, 2), (3.27, 1)])
def test_a_segmentation_lies_on_slices_whose_places_are_rounded(gap, digits, tmp_path):
    need("highdicom")
    voxels = np.repeat(IMAGE, 5, 2)
    for z in range(voxels.shape[2]):
        place = dict(ImagePositionPatient=[0, 0, round(0.03 + z * gap, digits)], SliceThickness=gap)
        dicom(tmp_path / "p", voxels, slices=[z], names=f"IM{z:04d}.dcm", **place)
    there_and_back(tmp_path / "p/IM0000.dcm", "AB")


def test_names_that_dicom_cannot_hold_are_refused_before_any_scan_is_segmented(untrained, tmp_path):
    need("highdicom")
    dicom(tmp_path / "raw/images/p", IMAGE)
    with pytest.raises(InputError, match=r"cannot name a class 'a\\\\b', as \\ parts values"):
        check_mask(tmp_path / "raw/images/p/IM0000.dcm", ["a\\b"])
    with pytest.raises(InputError, match="names classes by 64 characters, of which several begin 'x"):
        check_mask(tmp_path / "raw/images/p/IM0000.dcm", ["x" * 64 + "1", "x" * 64 + "2"])
    check_mask(tmp_path / "a.nii.gz", ["a\\b"])


def test_predicting_asks_whether_masks_can_be_written_before_it_segments(untrained, tmp_path, monkeypatch):
    need("highdicom")
    dicom(tmp_path / "raw/images/p", IMAGE)
    config, checkpoint = untrained(tmp_path / "raw")

    def refused(path, classes):
        raise InputError(f"{path}: {classes}")

    monkeypatch.setattr(sys.modules["cmems.apis.predict"], "check_mask", refused)
    with pytest.raises(InputError, match=r"\('A', 'B', 'C'\)|\['A', 'B', 'C'\]"):
        predict(config, checkpoint, tmp_path / "raw/images", tmp_path / "masks")
    assert not (tmp_path / "masks/p.dcm").exists()


def segmentation(path, scan, frames, kind="BINARY", numbers=(1, 2)):
    """Write a segmentation by highdicom of some slices of a series alone, without a spacing between them."""
    hd, pydicom = need("highdicom"), need("pydicom")
    sources = [pydicom.dcmread(file) for file in series_files(scan)]
    by = hd.AlgorithmIdentificationSequence("x", pydicom.sr.codedict.codes.DCM.ArtificialIntelligence, "1")
    tissue = pydicom.sr.codedict.codes.SCT.Tissue
    about = [hd.seg.SegmentDescription(k, f"S{k}", tissue, tissue, "AUTOMATIC", by) for k in numbers]
    voxels = np.zeros((len(frames), *read_grid(scan).voxels.shape[1:]), np.uint16)
    voxels[:, 2:5, 2:4], voxels[:, 7, 7] = numbers
    if kind == "OVERLAP":
        kind, voxels = "BINARY", np.stack([voxels > 0, voxels == numbers[1]], -1).astype(np.uint8)
    uid = pydicom.uid.generate_uid
    hd.seg.Segmentation(
        [sources[z] for z in frames], voxels, kind, about, uid(), 9, uid(), 1, "x", "x", "1", "1"
    ).save_as(path)


@pytest.mark.parametrize("frames", [[3], [1, 4], [1, 3, 5], [0, 1, 5]])
def test_frames_of_a_segmentation_lie_on_their_own_slices(frames, tmp_path):
    dicom(tmp_path / "p", IMAGE, SliceThickness=1)
    segmentation(tmp_path / "m.dcm", scan := tmp_path / "p/IM0000.dcm", frames)
    placed = lay_on(read_mask(tmp_path / "m.dcm"), read_grid(scan), tmp_path / "m.dcm", scan).voxels
    assert placed.any((1, 2)).nonzero()[0].tolist() == frames
    assert (placed == 1).sum() == 6 * len(frames)


def test_label_maps_number_segments_beyond_a_byte_and_segments_that_overlap_are_said(tmp_path):
    dicom(tmp_path / "p", IMAGE)
    scan = tmp_path / "p/IM0000.dcm"
    segmentation(tmp_path / "m.dcm", scan, range(6), "LABELMAP", (1, 257))
    mask = read_mask(tmp_path / "m.dcm")
    assert [(mask.voxels == k).sum() for k in (1, 257)] == [36, 6]
    assert is_segmentation(tmp_path / "m.dcm")
    segmentation(tmp_path / "m.dcm", scan, range(6), "OVERLAP")
    mask = read_mask(tmp_path / "m.dcm")
    assert [(mask.voxels == k).sum() for k in (1, 2)] == [36, 6]
    assert "segments overlap" in said(mask)
    with pytest.raises(InputError, match=r"IM0000\.dcm: expected a DICOM segmentation, got CT Image Storage"):
        read_mask(scan)


def test_a_segmentation_beside_the_scans_is_their_mask(tmp_path):
    dicom(tmp_path / "raw/anna", IMAGE)
    segmentation(tmp_path / "raw/anna-seg.dcm", tmp_path / "raw/anna/IM0000.dcm", range(6))
    reader = READERS.get("nifti")(tmp_path / "raw")
    (case,) = reader.cases()
    assert reader.classes == ("S1", "S2")
    assert (case.name, case.labels) == ("anna", (tmp_path / "raw/anna-seg.dcm",))


def test_slices_are_scaled_inverted_and_taken_for_what_each_says(tmp_path):
    grey = (IMAGE.transpose(ZYX) + 1024).astype(np.float32)
    dicom(tmp_path / "slope", IMAGE, RescaleSlope=2, RescaleIntercept=None)
    assert np.array_equal(read_scan(tmp_path / "slope/IM0000.dcm").voxels, 2 * grey)
    dicom(tmp_path / "empty", IMAGE, RescaleSlope="", RescaleIntercept="")
    assert np.array_equal(read_scan(tmp_path / "empty/IM0000.dcm").voxels, grey)
    for folder, fields, inverted in (("CT", {}, False), ("MR", dict(Modality="MR"), True)):
        dicom(tmp_path / folder, IMAGE, **fields)
        dicom(tmp_path / folder, IMAGE, slices=[2], PhotometricInterpretation="MONOCHROME1", **fields)
        scan, other = read_scan(tmp_path / folder / "IM0000.dcm").voxels, IMAGE.transpose(ZYX).astype(np.float32)
        if inverted:
            other[2] = other.max() + other.min() - other[2]
        assert np.array_equal(scan, other)
    dicom(tmp_path / "long", IMAGE, ImageOrientationPatient=[-1.004, 0, 0, 0, -1.004, 0])
    assert np.allclose(read_grid(tmp_path / "long/IM0000.dcm").affine, AFFINE)


def test_a_series_of_a_makers_own_kind_is_a_scan_and_one_of_two_names_alike_is_refused(tmp_path):
    dicom(tmp_path / "p", IMAGE, SOPClassUID="1.3.46.670589.11.0.0.12.1")
    assert list(scan_files(tmp_path)[0]) == ["p"]
    dicom(tmp_path / "a/b", IMAGE, series="1.2.826.3")
    dicom(tmp_path / "a_b", IMAGE, series="1.2.826.4")
    found, problems = scan_files(tmp_path)
    assert sorted(found) == ["a_b", "p"]
    assert [p.split(": ")[1] for p in problems] == [f"its series would be called a_b, as {tmp_path}/a/b is; rename one"]


def test_slices_of_dicom_beside_files_that_other_programs_write_are_scans(tmp_path):
    for name, file in (("p", "slices.png"), ("q", "run.json")):
        dicom(tmp_path / name, IMAGE, series=f"1.2.826.{ord(name)}")
        (tmp_path / name / file).write_text("")
    assert list(scan_files(tmp_path)[0]) == ["p", "q"]


def test_any_bytes_of_dicom_end_in_a_volume_or_in_one_line(tmp_path):
    dicom(tmp_path, IMAGE[..., :1])
    spoil(tmp_path / "IM0000.dcm", read_scan, np.random.default_rng(0), 1200)


# Images


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_images_are_cases_of_one_slice_and_colours_turn_to_grey(tmp_path):
    grey = IMAGE[..., 0].T
    png(tmp_path / "images/a.png", grey.astype(np.uint16))
    png(tmp_path / "images/b.png", (grey // 2).astype(np.uint8))
    png(tmp_path / "images/c.png", np.stack([grey // 2] * 3, -1).astype(np.uint8))
    png(tmp_path / "images/d.png", np.stack([grey // 2, grey // 4, grey // 8], -1).astype(np.uint8))
    png(tmp_path / "labels/a.png", LABEL[..., 3].T.copy())
    volumes = {case.name: folder(tmp_path).read(case) for case in folder(tmp_path).cases()}
    assert np.array_equal(volumes["a"][0].voxels, grey[None])
    assert np.array_equal(volumes["a"][1].voxels, LABEL[None, ..., 3].transpose(0, 2, 1))
    assert np.array_equal(volumes["b"][0].voxels, volumes["c"][0].voxels)
    assert "colours are turned to grey" in said(volumes["d"][0])
    assert "colours" not in said(volumes["c"][0])
    assert "1 mm is taken" in said(volumes["a"][0])
    data = prepare(folder(tmp_path, val=["b"]), tmp_path / "out", size=16, workers=1)
    assert data.eligible_exemplars() == [("a", 0)]
    png(tmp_path / "labels/a.png", np.stack([LABEL[..., 3].T, grey // 2, grey // 2], -1).astype(np.uint8))
    with pytest.raises(InputError, match=r"labels/a\.png: expected a grey or indexed mask.*, got colours"):
        prepare(folder(tmp_path), tmp_path / "other", size=16, workers=1)


def test_scans_and_masks_in_folders_below_are_named_and_what_cmems_wrote_there_is_not(tmp_path):
    for name in (
        "a",
        "more/b",
        "more/c",
        "out/a",
        "masks/a",
        "masks/doubt/a_entropy",
        ".old/a",
        "labels_1/a",
        "labels/a",
    ):
        nii(tmp_path / f"images/{name}.nii.gz", IMAGE)
    png(tmp_path / "images/plots/curve.png", IMAGE[..., 0].astype(np.uint16))  # beside volumes no scan
    for name in ("masks/trust.csv", "round_1/run.json"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_text("")
    (tmp_path / "images/round").symlink_to(tmp_path)
    found, problems = scan_files(tmp_path / "images", aside=[tmp_path / "images/out"])
    assert list(found) == ["a"]
    said = "in a folder below .*images, where it is not looked for, as 1 more there; move it up, or elsewhere"
    assert len(problems) == 1
    assert re.search(rf"more/b\.nii\.gz: {said}$", problems[0])
    nii(tmp_path / "labels/more/a.nii.gz", LABEL)
    with pytest.raises(InputError, match=r"labels/more/a\.nii\.gz: in a folder below .*labels, where it is"):
        folder(tmp_path).cases()
    assert scan_files(tmp_path / "images/masks")[1] == []
    (tmp_path / "labels/b.nii.gz").symlink_to(tmp_path / "nowhere")
    found, problems = scan_files(tmp_path / "labels", masks=True)
    assert not found
    assert problems[0] == f"{tmp_path}/labels/b.nii.gz: expected a file, got a link that leads to none"


def test_what_lies_in_folders_below_is_counted_and_what_no_scan_is_passed_over(tmp_path, monkeypatch, capsys):
    nii(tmp_path / "a.nii.gz", IMAGE)
    nii(tmp_path / "below/b.nii.gz", IMAGE)
    for name in "cde":
        nii(tmp_path / f"more/{name}.nii.gz", IMAGE)
    for name in (".c.nii.gz", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    where = f"in a folder below {tmp_path}, where it is not looked for"
    told = [
        f"{tmp_path}/below/b.nii.gz: {where}; move it up, or elsewhere",
        f"{tmp_path}/more/c.nii.gz: {where}, as 2 more there; move it up, or elsewhere",
    ]
    for find in (scan_files, nifti_files):
        found, problems = find(tmp_path)
        assert (list(found), problems) == (["a"], told)
    (tmp_path / "notes").write_text("")
    assert scan_files(tmp_path)[1][0].startswith(
        f"{tmp_path}/notes: not NIfTI, NRRD, PNG or DICOM by its name; convert"
    )
    for name, needed in dict(below=os.R_OK, more=os.X_OK).items():  # to list a folder, and to enter it
        monkeypatch.setattr("os.access", lambda path, mode, n=name, bit=needed: Path(path).name != n or not mode & bit)
        list(files_below(tmp_path))
        assert f"{tmp_path}/{name}: passed over; this user may not read it" in capsys.readouterr().err


def test_folders_that_a_folder_holds_are_hinted_at(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / ".hidden").mkdir()
    hints = ["", "; it holds a folder: a", "; it holds folders: a, b", "; it holds folders: a, b, c"]
    for name, hint in zip(("", "a", "b", "c"), hints, strict=True):
        (tmp_path / name).mkdir(exist_ok=True)
        assert folders_in(tmp_path) == hint
    (tmp_path / "d").mkdir()
    assert folders_in(tmp_path) == hints[-1]


def test_what_lies_beside_the_folders_that_are_read_is_said(tmp_path, capsys):
    for file in (
        "imagesTr/a_0000",
        "labelsTr/a",
        "imagesTs/b_0000",
        "labelsTs/b",
        "masks/old/a",
        "c",
        ".e",
        ".hidden/d",
    ):
        nii(tmp_path / f"{file}.nii.gz", LABEL if "l" in file else IMAGE)
    png(tmp_path / "look/a.png", IMAGE[..., 0].astype(np.uint16))
    assert list(folder(tmp_path).find()[0][0][:2]) == ["a", "train"]
    said = "c.nii.gz, imagesTs, labelsTs, masks: passed over; scans are read from imagesTr, masks from labelsTr"
    assert capsys.readouterr().err == f"warning: {tmp_path}: {said}\n"


@pytest.mark.parametrize("ending", ["txt", "xml"])
def test_a_mask_that_a_text_ending_hides_is_named(ending, tmp_path):
    nii(tmp_path / "images/a.nii.gz", IMAGE)
    nii(tmp_path / "labels/a.nii.gz", LABEL)
    (tmp_path / f"labels/a.nii.gz.{ending}").write_text("of the mask beside it")
    assert folder(tmp_path).find()[1] == []
    (tmp_path / "labels/a.nii.gz").rename(tmp_path / f"labels/a.nii.gz.{ending}")
    (problem,) = folder(tmp_path).find()[1]
    assert problem.startswith(
        f"{tmp_path}/labels/a.nii.gz.{ending}: called as NIfTI, NRRD, PNG or DICOM, but for its end"
    )


def test_slices_of_any_ending_and_in_folders_that_are_linked_are_found(tmp_path):
    dicom(tmp_path / "elsewhere", IMAGE, names="IM{:04d}.MR")
    (tmp_path / "scans/p").mkdir(parents=True)
    (tmp_path / "scans/p/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "scans")
    found, problems = scan_files(tmp_path / "scans")
    assert (list(found), problems) == (["p_link"], [])
    assert np.array_equal(read_scan(found["p_link"]).voxels, IMAGE.transpose(ZYX))


def test_a_series_written_anew_in_its_place_is_read_anew(tmp_path):
    dicom(tmp_path / "p", IMAGE)
    before = read_scan(tmp_path / "p/IM0000.dcm")
    when = (tmp_path / "p").stat().st_mtime_ns
    dicom(tmp_path / "p", IMAGE[..., ::-1], np.diag([-1.0, -1.0, 8.0, 1.0]))
    os.utime(tmp_path / "p", ns=(when, when))  # as that of a folder whose files are rewritten
    after = read_scan(tmp_path / "p/IM0000.dcm")
    assert (before.spacing, after.spacing) == ((4, 2, 1.5), (8, 1, 1))
    assert np.array_equal(after.voxels, before.voxels[::-1])


def test_a_picture_of_a_screen_beside_a_series_is_passed_over(tmp_path):
    pydicom = need("pydicom")
    dicom(tmp_path / "p", IMAGE)
    screen = dict(SOPClassUID=pydicom.uid.SecondaryCaptureImageStorage, ImagePositionPatient=None)
    dicom(tmp_path / "p", IMAGE, slices=[0], series="1.2.9", number=99, names="SC{}.dcm", **screen)
    (tmp_path / "p/link").symlink_to(tmp_path / "nowhere")
    found, problems = scan_files(tmp_path)
    assert (list(found), problems) == (["p"], [])


def test_a_folder_that_must_not_be_read_is_told_of(tmp_path, monkeypatch, capsys):
    dicom(tmp_path / "scans/p", IMAGE)
    dicom(tmp_path / "scans/locked", IMAGE)
    may = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "locked" and may(path, mode))
    assert list(scan_files(tmp_path / "scans")[0]) == ["p"]
    assert capsys.readouterr().err == f"warning: {tmp_path}/scans/locked: passed over; this user may not read it\n"
    monkeypatch.setattr("cmems.datasets.readers.files._ours", lambda path: path.name == "locked" and 1 / 0)  # raises
    assert list(scan_files(tmp_path / "scans")[0]) == ["p"]


def test_an_image_beside_volumes_is_no_scan(tmp_path):
    nii(tmp_path / "a.nii", IMAGE)
    png(tmp_path / "screenshot.png", IMAGE[..., 0].astype(np.uint16))
    found, problems = scan_files(tmp_path)
    assert list(found) == ["a"]
    assert problems == [f"{tmp_path / 'screenshot.png'}: an image beside volumes; move it elsewhere"]


def test_a_stack_of_napari_and_an_indexed_mask_are_labels(tmp_path):
    pages = [Image.fromarray(page.astype(np.int32)) for page in LABEL.transpose(ZYX)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    assert np.array_equal(read_mask(tmp_path / "a.tif").voxels, LABEL.transpose(ZYX))
    assert read_grid(tmp_path / "a.tif").voxels.shape == (6, 10, 12)
    indexed = Image.fromarray(LABEL[..., 3].T.copy()).convert("P")
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indexed.save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "b.png").voxels[0], LABEL[..., 3].T)
    png(tmp_path / "c.jpg", LABEL[..., 3].T.copy())
    with pytest.raises(InputError, match=r"c\.jpg: JPEG blurs labels; save the mask as PNG"):
        read_mask(tmp_path / "c.jpg")
    (tmp_path / "d.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"d\.png: truncated or not a readable image"):
        read_scan(tmp_path / "d.png")


@pytest.mark.parametrize(
    ("ending", "options"), [("png", {}), ("jpg", {}), ("tif", {}), ("tif", dict(compression="tiff_lzw"))]
)
def test_pixels_lie_as_an_image_is_shown(ending, options, tmp_path):
    path, stored = tmp_path / f"a.{ending}", np.kron(LABEL[..., 3], np.full((8, 8), 90, np.uint8))
    for orientation in (1, 3, 6):
        tags = Image.Exif()
        tags[274] = orientation
        Image.fromarray(stored).save(path, exif=tags, **options)
        image = read_scan(path)
        assert np.abs(image.voxels[0] - np.rot90(stored, {1: 0, 3: 2, 6: 3}[orientation]).astype(float)).max() < 9
        assert read_grid(path).voxels.shape == image.voxels.shape
        assert ("turned as its EXIF says" in said(image)) == (orientation > 1)


@pytest.mark.parametrize("bits", [2, 4])
def test_pixels_of_few_bits_are_labels_as_they_are_stored(bits, tmp_path):
    row = np.arange(8, dtype=np.uint8)[::-1] * 5 % (1 << bits)
    packed = np.packbits(np.unpackbits(row[:, None], 1)[:, -bits:].ravel()).tobytes()
    png_of(tmp_path / "a.png", 8, 1, bits, 0, b"\0" + packed)
    assert np.array_equal(read_mask(tmp_path / "a.png").voxels[0, 0], row)
    assert (read_scan(tmp_path / "a.png").voxels[0, 0] > row).sum() == (row > 0).sum()  # grey takes all of a byte


@pytest.mark.parametrize(("dtype", "kind"), [(np.int8, 2), (np.uint32, 1)])
def test_pixels_of_a_tiff_are_the_numbers_that_it_stores(dtype, kind, tmp_path):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pixels = np.array([[low, 0, 1], [2, high - 1, high]], dtype)
    unsigned = pixels.view(np.uint8) if dtype == np.int8 else pixels.view(np.int32)
    Image.fromarray(unsigned).save(tmp_path / "a.tif", tiffinfo={339: kind})
    content, entry = (tmp_path / "a.tif").read_bytes(), struct.pack("<HHI", 339, 3, 1)
    (tmp_path / "a.tif").write_bytes(content.replace(entry + b"\2", entry + bytes([kind])))  # Pillow has its own mind
    assert np.array_equal(read_scan(tmp_path / "a.tif").voxels[0], pixels)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("bits", [2, 4])
def test_pixels_of_few_bits_of_a_tiff_are_labels_whichever_end_a_byte_begins_at(bits, order, tmp_path):
    row = np.arange(8, dtype=np.uint8)[::-1] * 5 % (1 << bits)
    packed = np.packbits(np.unpackbits(row[:, None], 1)[:, -bits:].ravel())
    packed = packed if order == 1 else np.packbits(np.unpackbits(packed[:, None], 1)[:, ::-1].ravel())
    fields = {256: 8, 257: 1, 258: bits, 259: 1, 262: 1, 266: order, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    data = packed.tobytes().ljust(8, b"\0")
    head = b"II*\0" + struct.pack("<I", 16)
    (tmp_path / "a.tif").write_bytes(head + data + struct.pack("<H", len(fields)) + entries + bytes(4))
    assert np.array_equal(read_mask(tmp_path / "a.tif").voxels[0, 0], row)


def png_of(path, width, height, bits, kind, rows):
    """Write a PNG by hand: ``rows`` each with its filter before it."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


@pytest.mark.parametrize(("kind", "bands"), [(4, 2), (2, 3), (6, 4)])
def test_colours_of_16_bits_are_refused_of_which_half_would_be_lost(kind, bands, tmp_path):
    grey = np.repeat(IMAGE[..., 0].T[..., None], bands, -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    png_of(tmp_path / "a.png", grey.shape[1], grey.shape[0], 16, kind, rows)
    for read_it in (read_scan, read_mask):
        with pytest.raises(InputError, match=r"a\.png: expected colours of 8 bits or grey of 16, got colours of 16"):
            read_it(tmp_path / "a.png")


@pytest.mark.parametrize(("dtype", "labels"), [(np.uint8, False), (np.uint8, True), (np.uint16, False), (bool, False)])
def test_white_is_zero_is_shown_as_it_is_or_refused(dtype, labels, tmp_path):
    pixels = (np.arange(12).reshape(3, 4) % (2 if dtype is bool else 12)).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={262: 0})
    if labels or dtype == np.uint16:
        with pytest.raises(
            InputError, match=r"a\.tif: expected grey whose zero is black, got white-is-zero; save it as"
        ):
            (read_mask if labels else read_scan)(tmp_path / "a.tif")
    else:
        assert np.array_equal(read_scan(tmp_path / "a.tif").voxels[0], pixels)


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\n", "6, of 2 channels, 3 slices and 1 times"),
        ('<OME><Pixels SizeC="1" SizeT="2" SizeX="9" SizeZ="3"></OME>', "6, of 1 channels, 3 slices and 2 times"),
        ("ImageJ=1.53t\nimages=6\nframes=6\n", None),  # as ImageJ has stacks whose third axis nobody named
        ('<OME><Pixels SizeC="1" SizeT="1" SizeZ="6"></OME>', None),
        ('{"shape": [6, 10, 12]}', None),
        ("ImageJ=1.53t\nimages=9\nslices=9\n", "6 of 9"),  # as large stacks are: the other pages are not described
        ('{"shape": [9, 10, 12], "truncated": true}', "6 of 9"),
    ],
)
def test_pages_of_a_tiff_are_slices_and_neither_channels_nor_times(description, told, tmp_path):
    pages = [Image.fromarray(page.astype(np.uint8)) for page in IMAGE.transpose(ZYX)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], description=description)
    if told is None:
        assert len(read_scan(tmp_path / "a.tif").voxels) == 6
        return
    with pytest.raises(InputError, match=rf"a\.tif: expected a page for each slice, got {told}; save "):
        read_scan(tmp_path / "a.tif")


# From scans to masks


@pytest.fixture
def untrained(tiny_config, tmp_path):
    """Prepare a folder with classes A, B, C and return a config and drawn weights for it."""
    import torch

    from cmems.apis import load_config
    from cmems.registry import MODELS

    def make(root, **options):
        prepare(folder(root, classes=["A", "B", "C"], **options), tmp_path / "data", size=32, workers=1)
        config, checkpoint = tiny_config(data=tmp_path / "data"), str(tmp_path / "drawn.pth")
        torch.manual_seed(0)
        model = MODELS.build(load_config(config).model)
        for network in model.networks:
            torch.nn.init.normal_(network.head.weight, 0, 3)
        torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
        return config, checkpoint

    return make


def test_one_scan_in_every_format_gets_one_mask_at_one_place(untrained, tmp_path):
    highdicom = need("highdicom")
    hounsfield = IMAGE - 600
    nii(tmp_path / "raw/images/n.nii.gz", hounsfield)
    nrrd(tmp_path / "raw/images/r.nrrd", hounsfield)
    turn = np.diag([-1.0, -1, 1, 1])
    turn[:3, 3] = SHAPE[0] - 1, SHAPE[1] - 1, 0
    dicom(tmp_path / "raw/images/d", hounsfield[::-1, ::-1], AFFINE @ turn)  # LPS, as scanners store
    nrrd(tmp_path / "raw/labels/d.seg.nrrd", *cut(2, 1, 2), **segments("A", "B"))
    config, checkpoint = untrained(tmp_path / "raw", modality="ct")
    manifest = re.sub(r"[0-9a-f]{16,}", "", (tmp_path / "data/manifest.json").read_text())  # checksums hold any year
    assert not any(word in manifest for word in ("Doe", "SECRET", "1970", "1.2.826", "IM0"))
    images = np.load(tmp_path / "data/train_images.npy").reshape(3, 6, 32, 32)
    assert np.array_equal(images[0], images[1])  # d is turned as the others
    assert np.array_equal(images[0], images[2])
    assert json.loads(manifest)["cases"]["d"]["sources"]["image"][0]["files"] == 6
    assert true_affine(PreparedDataset(tmp_path / "data").case("d")) is not None
    written = predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks")).paths
    assert {name: path.name for name, path in written.items()} == {
        "n": "n.nii.gz", "r": "r.nii.gz", "d": "d.dcm",
    }  # fmt: skip
    mask = np.asarray(nib.load(written["n"]).dataobj)
    assert len(np.unique(mask)) > 1
    assert np.array_equal(np.asarray(nib.load(written["r"]).dataobj), mask)
    np.testing.assert_allclose(nib.load(written["r"]).affine, AFFINE)
    seg = highdicom.seg.segread(written["d"])
    volume = seg.get_volume(combine_segments=True)
    assert [str(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers] == ["A", "B", "C"]
    shown = [s.RecommendedDisplayCIELabValue for s in seg.SegmentSequence]
    shown = [highdicom.color.CIELabColor.from_dicom_value(tuple(value)).to_rgb() for value in shown]
    np.testing.assert_allclose(shown, class_colors(3), atol=2)
    place = np.linalg.inv(AFFINE) @ np.diag([-1, -1, 1, 1]) @ volume.affine  # its indices (z, y, x) to the scan's
    there = np.argwhere(volume.array > 0)
    landed = np.rint(there @ place[:3, :3].T + place[:3, 3]).astype(int)
    assert np.array_equal(mask[tuple(landed.T)], volume.array[tuple(there.T)])
    assert len(there) == np.count_nonzero(mask)
    assert (seg.PatientID, str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)) == ("SECRET", "1.2.826.1")
    assert "d,A," in (tmp_path / "masks/trust.csv").read_text()
    again = predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks"))
    assert sorted(again.kept) == ["d", "n", "r"]
    series = sorted((tmp_path / "raw/images/d").glob("*.dcm"))
    os.utime(series[-1], (0, 0))  # as where a slice was replaced
    again = predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks"))
    assert (sorted(again.kept), again.mended) == (["n", "r"], [])
    held = need("pydicom").dcmread(written["d"])
    untouched = written["d"].read_bytes()
    held.PixelData = bytes([held.PixelData[0] ^ 255]) + held.PixelData[1:]
    held.save_as(written["d"])
    again = predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks"))
    assert (sorted(again.kept), again.mended) == (["n", "r"], ["d"])
    written["d"].write_bytes(untouched)
    assert not predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks")).mended
    words = str(tmp_path / "raw/images"), str(tmp_path / "p"), 3
    assert {p.scan for p in pick(*words, after=str(tmp_path / "masks"))} == {"n", "r"}  # of d a slice is painted
    (tmp_path / "raw/labels/d.seg.nrrd").unlink()
    picks = pick(*words, after=str(tmp_path / "masks"))
    assert {p.scan: p.mask.name for p in picks} == {"n": "n.nii.gz", "r": "r.nii.gz", "d": "d.nii.gz"}


def test_masks_of_images_are_images_of_their_size(untrained, tmp_path):
    for name in "ab":
        png(tmp_path / f"raw/images/{name}.png", (IMAGE[..., 0].T + ord(name)).astype(np.uint16))
    png(tmp_path / "raw/labels/a.png", LABEL[..., 3].T.copy())
    config, checkpoint = untrained(tmp_path / "raw")
    (tmp_path / "raw/images/c.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"^\S*c\.png: truncated or not a readable image \(\S* ?[^\n]*$"):
        predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks"))
    for name in "ab":
        with Image.open(tmp_path / f"masks/{name}.png") as mask:
            assert (mask.size, mask.mode) == ((12, 10), "L")
            assert set(np.unique(np.asarray(mask))) <= {0, 1, 2, 3}
    (tmp_path / "raw/images/c.png").unlink()
    png(tmp_path / "masks/b.png", np.full((10, 12), 2, np.uint8))  # mended by hand
    again = predict(config, checkpoint, str(tmp_path / "raw/images"), str(tmp_path / "masks"), pictures=True)
    assert (again.kept, again.mended) == ([], ["b"])
    assert (tmp_path / "masks/pictures/a.png").is_file()
    path = tmp_path / "raw/images/a.png"
    assert true_affine(PreparedDataset(tmp_path / "data").case("a")) is None
    ready = Preparation.of(PreparedDataset(tmp_path / "data")).ready(read_scan(path), path)
    assert ready.content["affine"] is None  # so that it is drawn as it lies, without letters for the patient's sides


def test_an_encoded_stack_is_read_back(tmp_path):
    pages = [Image.fromarray(page) for page in IMAGE.astype(np.uint16).transpose(ZYX)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert mask_ending(tmp_path / "a.tif") == ".tif"
    mask = np.ascontiguousarray(LABEL.transpose(ZYX))
    for name in ("m.tif", "m.nii.gz"):
        (tmp_path / name).write_bytes(encoded(tmp_path / "a.tif", name, mask, ()))
        assert np.array_equal(read_mask(tmp_path / name).voxels, mask)
