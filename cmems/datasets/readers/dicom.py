"""Reading DICOM: a series of slices as a volume, a segmentation as a mask; writing a mask as a segmentation."""

import functools
import hashlib
import io
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from cmems.datasets.names import composed
from cmems.datasets.readers.files import ASIDE, SCAN, check_size, need, reading
from cmems.datasets.readers.nifti import Volume
from cmems.datasets.readers.nrrd import OVERLAP
from cmems.errors import InputError

_KIND = "a DICOM file"
_SEGS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # bits or fractions, and label maps
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A tenth of the way to the next slice: rounding in headers stays below it, a missing slice far above.
_TOLERANCE = 0.1
_INVERTED = "stored with white as the smallest value; inverted"
_LONGEST = 64  # characters of a segment's label
# What a segmentation repeats of its scan, and must have, if empty.
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
            "StudyTime")  # fmt: skip
_HEADER = (
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing", "SliceThickness", "ImagePositionPatient",
    "ImageOrientationPatient",
)  # fmt: skip


def is_dicom(path):
    """Tell whether a file is DICOM: by its ending, or, without one that is known, by its first bytes."""
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    if path.name.upper() == "DICOMDIR" or path.suffix.lower() in ASIDE or SCAN.search(path.name):
        return False
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_series(root, files):
    """Tell apart the series of slices among DICOM files.

    What is no series of slices is passed over: localizers, segmentations, reports, presentations.

    Args:
        root (Path): The folder that names are relative to.
        files (list[Path]): In it and in folders below.

    Returns:
        tuple[dict[str, Path], list[str]]: Any file of each series by name, the folder's, or, of several in a folder,
        with ``_s`` and the number of the series; nothing else of a header becomes a name. And problems.
    """
    homes, problems = defaultdict(dict), []
    for folder in sorted({path.parent for path in files}):
        try:
            series, odd = _folder(folder, folder.stat().st_mtime_ns)
        except InputError as error:
            return {}, error.problems
        problems += odd
        for uid, slices in series.items():
            homes[uid][folder] = slices
    found, crowd = {}, Counter(folder for folders in homes.values() for folder in folders)
    for folders in homes.values():
        (folder, slices), *others = folders.items()
        if others:
            problems.append(f"{folder}: the series lies in {others[0][0]} too; expected all its slices in one folder")
            continue
        name = composed("_".join(folder.relative_to(root).parts))
        number = str(slices[0][1].get("SeriesNumber") or "")
        if crowd[folder] > 1 or not name:
            name = f"{name}_s{number}".strip("_") if number else name or "series"
        while name in found and found[name].parent == folder:
            name += "_b"
        if name in found:  # as a/b and a_b are, and a mask of that name may be meant for either
            problems.append(f"{folder}: its series would be called {name}, as {found[name].parent} is; rename one")
            continue
        found[name] = slices[0][0]
    return found, problems


def series_files(path):
    """Return the files of the series that a DICOM file is of, from its folder, by position.

    Raises:
        InputError: They are no series of parallel, evenly spaced slices, each a file; or one is damaged.
    """
    return tuple(file for file, _ in _sorted(Path(path))[0])


def read_dicom(path):
    """Read the series that a DICOM file is of as a volume.

    Slices are sorted by position; each is scaled by its own slope and intercept, so that CT is in HU.

    Args:
        path (str | Path): Any of its files; the others are those of its folder with the same ``SeriesInstanceUID``.

    Raises:
        InputError: As :func:`series_files`; or it has colours, or claims more than it holds.
    """
    path = Path(path)
    slices, grid = _sorted(path)
    dicom = need("pydicom", path, "dicom")
    shape, inverted = grid.voxels.shape, []
    check_size(path, shape, 4, sum(file.stat().st_size for file, _ in slices), True)
    voxels = np.empty(shape, np.float32)
    for z, (file, _) in enumerate(slices):
        with reading(file, _KIND), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _refuse_deflated(file)
            dataset = dicom.dcmread(file)
            _scale(dataset)
            pixels = dicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
            if pixels.shape != shape[1:]:
                raise InputError(f"{file}: expected pixels {shape[1:]}, got {pixels.shape}")
            voxels[z] = pixels
            # HU say by themselves what is dense, however they are shown.
            if dataset.PhotometricInterpretation == "MONOCHROME1" and dataset.get("Modality") != "CT":
                inverted.append(z)
    if inverted:
        voxels[inverted] = voxels.max() + voxels.min() - voxels[inverted]
        some = "" if len(inverted) == len(voxels) else f"{len(inverted)} of {len(voxels)} slices"
        grid = grid._replace(notes=(*grid.notes, (_INVERTED, some)))
    return grid._replace(voxels=voxels)


def _scale(dataset):
    """Give a slope the intercept that it lacks, and the other way about, as both are needed to be counted."""
    neutral = {"RescaleSlope": 1, "RescaleIntercept": 0}
    if any(name in dataset for name in neutral):
        for name, value in neutral.items():
            if dataset.get(name) is None:
                setattr(dataset, name, value)


def dicom_modality(path):
    """Return what the header of a DICOM file says it is of: ``CT``, ``MR`` …"""
    slices, _ = _sorted(Path(path))
    return str(slices[0][1]["Modality"] or "")


def dicom_grid(path):
    """Return what :func:`read_dicom` does, pixels unread: zeros that take no memory."""
    return _sorted(Path(path))[1]


def is_segmentation(path):
    """Tell whether a DICOM file is a segmentation."""
    with reading(path, _KIND):
        return _meta(path).get("MediaStorageSOPClassUID") in _SEGS


def read_segmentation(path):
    """Read a DICOM segmentation; its voxels number the segments, and ``names`` gives their labels by number.

    Raises:
        InputError: It is damaged, or no segmentation of parallel slices.
    """
    path = Path(path)
    with reading(path, "a DICOM segmentation"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _refuse_deflated(path)
        if (kind := _meta(path).get("MediaStorageSOPClassUID")) and kind not in _SEGS:
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
    affine = _TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
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
        slices, grid = _sorted(path)
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
    affine = _TO_RAS @ grid.affine
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


def _meta(path):
    return need("pydicom", path, "dicom").filereader.read_file_meta_info(path)


def _refuse_deflated(path):
    """Refuse what pydicom inflates before anything can be compared with what the file holds."""
    if _meta(path).get("TransferSyntaxUID") == _DEFLATED:
        raise InputError(f"{path}: deflated DICOM is not read; save it under another transfer syntax")


@functools.lru_cache(maxsize=64)
def _folder(folder, changed):
    """Return the slices of a folder by series, (file, header) each, and problems; ``changed`` is when it was."""
    dicom, found, problems = need("pydicom", folder, "dicom"), defaultdict(list), []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir() or not is_dicom(path):
            continue
        try:
            with reading(path, _KIND), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _refuse_deflated(path)
                header = dicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
                # Read now, so that damage ends here.
                values = {name: header.get(name) for name in _HEADER}
                if not _is_slice(values):
                    continue
                for name in ("SOPClassUID", "SeriesInstanceUID", "Rows", "Columns"):
                    if not values[name]:
                        raise InputError(f"{path}: {name}: expected a value, got none")
        except InputError as error:
            problems += error.problems
        else:
            found[str(values["SeriesInstanceUID"])].append((path, values))
    return dict(found), problems


def _is_slice(header):
    """Tell whether a file should be a slice: neither a report, nor a segmentation, nor a localizer."""
    kind = header["SOPClassUID"]
    if kind and (kind in _SEGS or "Image Storage" not in kind.name):
        # A maker's own kind has no name; what has pixels at a place is a slice.
        placed = ("Rows", "Columns", "ImagePositionPatient")
        if kind.name != kind or not all(header[name] for name in placed):
            return False
    return "LOCALIZER" not in list(header["ImageType"] or ())


def _sorted(path):
    """Return the (file, header) of a file's series by position, and their grid."""
    folder = path.parent
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    series, problems = _folder(folder, folder.stat().st_mtime_ns)
    slices = next((each for each in series.values() if path in [file for file, _ in each]), None)
    if slices is None:
        own = [problem for problem in problems if problem.startswith(f"{path}: ")]
        raise InputError(own or f"{path}: expected a slice of a DICOM series, got {_KIND} of another kind")
    with reading(path, "a DICOM series"):
        return _stack(path, slices)


def _stack(path, slices):
    where = f"{path.parent}: series of {path.name}"
    for file, header in slices:
        if int(header["NumberOfFrames"] or 1) > 1:
            raise InputError(
                f"{file}: expected one slice in each file, got {header['NumberOfFrames']}; convert to NIfTI"
            )
        if int(header["SamplesPerPixel"] or 1) > 1:
            raise InputError(f"{file}: expected one real number per voxel, got {header['PhotometricInterpretation']}")
        for name, length in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
            if header[name] is None or len(header[name]) != length or not np.isfinite(_floats(header[name])).all():
                raise InputError(f"{file}: {name}: expected {length} numbers, got {header[name]}")
    first = slices[0][1]
    for file, header in slices:
        for name in ("Rows", "Columns"):
            if header[name] != first[name]:
                raise InputError(f"{where}: {name} differ: {first[name]}, in {file.name} {header[name]}")
        for name in ("ImageOrientationPatient", "PixelSpacing"):
            if not np.allclose(_floats(header[name]), _floats(first[name]), atol=1e-3):
                raise InputError(f"{where}: {name} differ: {list(first[name])}, in {file.name} {list(header[name])}")
    along, down = _floats(first["ImageOrientationPatient"]).reshape(2, 3)
    normal = np.cross(along, down)
    if abs(np.linalg.norm(normal) - 1) > 1e-2:
        raise InputError(f"{where}: ImageOrientationPatient: expected two directions at right angles")
    along, down, normal = (each / np.linalg.norm(each) for each in (along, down, normal))
    sides = _floats(first["PixelSpacing"])
    if sides.min() <= 0:
        raise InputError(f"{where}: PixelSpacing: expected sides of more than 0 mm, got {sides.tolist()}")
    slices = sorted(slices, key=lambda each: float(normal @ _floats(each[1]["ImagePositionPatient"])))
    positions = np.array([_floats(header["ImagePositionPatient"]) for _, header in slices])
    step, notes = _step(where, slices, positions, normal, sides.min())
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along * sides[1], down * sides[0], step], 1)
    affine[:3, 3] = positions[0]
    affine = _TO_RAS @ affine
    zeros = np.broadcast_to(np.uint8(0), (len(slices), int(first["Rows"]), int(first["Columns"])))
    spacing = (float(np.linalg.norm(step)), *map(float, sides))
    return slices, Volume(zeros, spacing, affine, (affine,), notes)


def _step(where, slices, positions, normal, side):
    """Return the way ``(3,)`` from a slice to the next, mm, and notes; ``side`` is a pixel's."""
    if len(slices) == 1:
        thickness = float(slices[0][1]["SliceThickness"] or 0)
        return normal * (thickness if thickness > 0 else 1.0), ()
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    tight = int(gaps.argmin())
    if gaps[tight] <= _TOLERANCE * usual or usual <= 0:
        names = " and ".join(file.name for file, _ in slices[tight : tight + 2])
        raise InputError(f"{where}: {names} lie at one place; expected one volume, got several times, echoes or copies")
    off = np.abs(gaps - usual)
    worst = int(off.argmax())
    if off[worst] > _TOLERANCE * usual:
        names = " and ".join(file.name for file, _ in slices[worst : worst + 2])
        raise InputError(
            f"{where}: expected slices {usual:.4g} mm apart, got {gaps[worst]:.4g} mm between {names}; is one missing?"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    aside = np.linalg.norm(step - normal * (normal @ step))
    if aside > 0.01 * usual:
        raise InputError(
            f"{where}: expected slices behind one another, got each {aside:.3g} mm aside of the last (a tilted gantry)"
        )
    within = positions - positions[0] - np.outer(np.arange(len(positions)), step)
    aside = np.linalg.norm(within - np.outer(within @ normal, normal), axis=1)
    worst = int(aside.argmax())
    if aside[worst] > max(0.5 * side, _TOLERANCE * usual):
        raise InputError(
            f"{where}: expected slices behind one another, got {slices[worst][0].name} {aside[worst]:.3g} mm aside"
        )
    return normal * (normal @ step), ()


def _floats(values):
    return np.array([float(v) for v in values])
