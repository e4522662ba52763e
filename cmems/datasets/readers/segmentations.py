"""DICOM segmentations: reading one as a mask, and writing a mask as one."""

import hashlib
import io
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from cmems.datasets.readers.dicom import KIND, SEGMENTATIONS, TO_RAS, meta, refuse_deflated, sorted_slices
from cmems.datasets.readers.files import check_size, need, reading
from cmems.datasets.readers.nifti import Volume
from cmems.datasets.readers.nrrd import OVERLAP
from cmems.errors import InputError

_LONGEST = 64  # characters of a segment's label
# What a segmentation repeats of its scan, and must have, if empty.
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
            "StudyTime")  # fmt: skip


def is_segmentation(path):
    """Tell whether a DICOM file is a segmentation."""
    with reading(path, KIND):
        return meta(path).get("MediaStorageSOPClassUID") in SEGMENTATIONS


def read_segmentation(path):
    """Read a DICOM segmentation; its voxels number the segments, and ``names`` gives their labels by number.

    Raises:
        InputError: It is damaged, or no segmentation of parallel slices.
    """
    path = Path(path)
    with reading(path, "a DICOM segmentation"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuse_deflated(path)
        if (kind := meta(path).get("MediaStorageSOPClassUID")) and kind not in SEGMENTATIONS:
            raise InputError(f"{path}: expected a DICOM segmentation, got {kind.name}")
        read = need("highdicom", path, "dicom").seg.segread
        seg = read(path)
        frames = int(seg.NumberOfFrames)
        check_size(path, (frames, seg.Rows, seg.Columns), 1, path.stat().st_size, True)
        names = {n: str(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers}
        if len(names) > 254:
            raise InputError(f"{path}: expected 254 segments or fewer, got {len(names)}")
        notes = ()
        try:
            volume = seg.get_volume(combine_segments=True)
        except RuntimeError as error:
            if "overlap" not in str(error):
                raise
            # Read anew: its tables are left locked.
            volume, notes = read(path).get_volume(combine_segments=True, skip_overlap_checks=True), ((OVERLAP, ""),)
    affine = TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
    return Volume(volume.array, tuple(map(float, volume.spacing)), affine, (affine,), notes, names, lone=True)


def segmentation_like(path, voxels, classes, colors, description=None):
    """Return the bytes of a DICOM segmentation that refers to a series.

    Patient and study are those of the series, as the standard wants it; its identifiers follow from the series' and
    the voxels, so that the same mask is the same object.

    Args:
        path (str | Path): Any file of the series.
        voxels (np.ndarray): ``(D, H, W)`` uint8, slices by position; label k is the k-th class.
        classes (sequence[str]): Names of the segments.
        colors (sequence[tuple[int]]): In which viewers should show them, RGB of 0 to 255.
        description (str | None): What the file says of its content, up to 64 characters.

    Raises:
        InputError: As :func:`check_segments`; or the headers of the series are damaged.
    """
    from cmems import __version__

    path = Path(path)
    check_segments(path, classes)
    dicom, hd = need("pydicom", path, "dicom"), need("highdicom", path, "dicom")
    code = dicom.sr.codedict.codes
    with reading(path, "a DICOM series that a segmentation can refer to"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slices, grid = sorted_slices(path)
        sources = []
        for z, (file, _) in enumerate(slices):
            one = dicom.dcmread(file, stop_before_pixels=True)
            sources.append(_mended(dicom, one, sources[0] if sources else one, grid, z))
        by = hd.AlgorithmIdentificationSequence("CMEMS", code.DCM.ArtificialIntelligence, __version__)
        kind, shown = code.SCT.Tissue, hd.color.CIELabColor.from_rgb
        about = [
            hd.seg.SegmentDescription(k, name[:_LONGEST], kind, kind, "AUTOMATIC", by, display_color=shown(*rgb))
            for k, (name, rgb) in enumerate(zip(classes, colors, strict=True), 1)
        ]
        seeds = [sources[0].SeriesInstanceUID, __version__, *classes, hashlib.sha256(voxels.tobytes()).hexdigest()]
        series, instance = (dicom.uid.generate_uid(entropy_srcs=[kind, *seeds]) for kind in ("series", "instance"))
        seg = hd.seg.Segmentation(
            sources, np.ascontiguousarray(voxels), "BINARY", about, series, 1000, instance, 1, "CMEMS", "CMEMS",
            __version__, "none", content_label="CMEMS", series_description="CMEMS",
            content_description=description, omit_empty_frames=voxels.any(),
        )  # fmt: skip
        content = io.BytesIO()
        seg.save_as(content)
    return content.getvalue()


def check_segments(path, classes):
    """Find, before the work, why masks of a series could not be written as segmentations.

    Raises:
        InputError: A library is not installed; or DICOM cannot hold the names of the classes, or tell them apart.
    """
    need("highdicom", path, "dicom")
    for name in classes:
        if "\\" in name:
            raise InputError(f"{path}: a DICOM segmentation cannot name a class {name!r}, as \\ parts values there")
    if twice := [name for name, count in Counter(name[:_LONGEST] for name in classes).items() if count > 1]:
        raise InputError(
            f"{path}: a DICOM segmentation names classes by {_LONGEST} characters, of which several begin {twice[0]!r}"
        )


def _mended(dicom, one, first, grid, z):
    """Return the header of the z-th slice as a segmentation may repeat it.

    Anonymised scans lack what is to be there, or have what is none; names may be in any alphabet; and each slice lies
    where it was taken to lie, so that what is written is read back. ``first`` is the first slice's, mended.
    """
    one.decode()
    one.SpecificCharacterSet = "ISO_IR 192"  # Unicode, which the names of classes may need
    checks = {"PatientBirthDate": dicom.valuerep.DA, "StudyDate": dicom.valuerep.DA, "StudyTime": dicom.valuerep.TM}
    for name in _PATIENT:
        value = one.get(name)
        try:
            fits = value is not None and not isinstance(value, dicom.multival.MultiValue)
            fits = fits and (name != "PatientSex" or value in ("", "M", "F", "O"))
            if fits and name in checks:
                checks[name](value)
        except (ValueError, TypeError):
            fits = False
        if not fits:
            setattr(one, name, "")
    series = str(one.SeriesInstanceUID)
    if not one.get("SOPInstanceUID"):
        one.SOPInstanceUID = dicom.uid.generate_uid(entropy_srcs=["instance", series, str(z)])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        found = one.get(name) if one is first else first.get(name)
        setattr(one, name, found or dicom.uid.generate_uid(entropy_srcs=[name, series]))
    affine = TO_RAS @ grid.affine
    steps = affine[:3, :3] / np.array(grid.spacing[::-1])
    one.ImageOrientationPatient = [_decimal(v) for v in steps[:, :2].T.ravel()]
    one.ImagePositionPatient = [_decimal(v) for v in (affine @ (0, 0, z, 1))[:3]]
    one.PixelSpacing = [_decimal(v) for v in grid.spacing[1:]]
    one.SliceThickness = one.SpacingBetweenSlices = _decimal(grid.spacing[0])
    return one


def _decimal(value):
    """Return a number as DICOM writes it, in 16 characters at most."""
    return f"{value:.10g}" if abs(value) >= 1e-4 else f"{value:.9f}"


def description_of(path):
    """Return what a file says of its content; None where it says nothing."""
    header = need("pydicom", path, "dicom").dcmread(path, stop_before_pixels=True, specific_tags=["ContentDescription"])
    return header.get("ContentDescription")
