"""Reading DICOM: a series of slices as a volume."""

import functools
import os
import warnings
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np

from cmems.datasets.names import composed
from cmems.datasets.readers.files import ASIDE, SCAN, check_size, need, reading
from cmems.datasets.readers.nifti import Volume
from cmems.errors import InputError

KIND = "a DICOM file"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # bits or fractions, and label maps
_DEFLATED = "1.2.840.10008.1.2.1.99"
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A tenth of the way to the next slice: rounding in headers stays below it, a missing slice far above.
_TOLERANCE = 0.1
_INVERTED = "stored with white as the smallest value; inverted"
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
            series, odd = _folder(folder, _state(folder))
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
    return tuple(file for file, _ in sorted_slices(Path(path))[0])


def read_dicom(path):
    """Read the series that a DICOM file is of as a volume.

    Slices are sorted by position; each is scaled by its own slope and intercept, so that CT is in HU.

    Args:
        path (str | Path): Any of its files; the others are those of its folder with the same ``SeriesInstanceUID``.

    Raises:
        InputError: As :func:`series_files`; or it has colours, or claims more than it holds.
    """
    path = Path(path)
    slices, grid = sorted_slices(path)
    dicom = need("pydicom", path, "dicom")
    shape, inverted = grid.voxels.shape, []
    check_size(path, shape, 4, sum(file.stat().st_size for file, _ in slices), True)
    voxels = np.empty(shape, np.float32)
    for z, (file, _) in enumerate(slices):
        with reading(file, KIND), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refuse_deflated(file)
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
    slices, _ = sorted_slices(Path(path))
    return str(slices[0][1]["Modality"] or "")


def dicom_grid(path):
    """Return what :func:`read_dicom` does, pixels unread: zeros that take no memory."""
    return sorted_slices(Path(path))[1]


def meta(path):
    """Return the meta information that a DICOM file begins with."""
    return need("pydicom", path, "dicom").filereader.read_file_meta_info(path)


def refuse_deflated(path):
    """Refuse what pydicom inflates before anything can be compared with what the file holds."""
    if meta(path).get("TransferSyntaxUID") == _DEFLATED:
        raise InputError(f"{path}: deflated DICOM is not read; save it under another transfer syntax")


def _state(folder):
    """Return by what it is seen that a folder's files are others, or were written anew."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # a link that leads to no file
                found.append((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=64)
def _folder(folder, state):
    """Return the slices of a folder by series, (file, header) each, and problems; ``state`` is of :func:`_state`."""
    dicom, found, problems = need("pydicom", folder, "dicom"), defaultdict(list), []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir() or not is_dicom(path):
            continue
        try:
            with reading(path, KIND), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                refuse_deflated(path)
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
    if kind and (kind in SEGMENTATIONS or "Image Storage" not in kind.name):
        # A maker's own kind has no name; what has pixels at a place is a slice.
        placed = ("Rows", "Columns", "ImagePositionPatient")
        if kind.name != kind or not all(header[name] for name in placed):
            return False
    if kind and "Secondary Capture" in kind.name and not header["ImagePositionPatient"]:  # a picture of a screen
        return False
    return "LOCALIZER" not in list(header["ImageType"] or ())


def sorted_slices(path):
    """Return the (file, header) of a file's series by position, and their grid."""
    folder = path.parent
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    series, problems = _folder(folder, _state(folder))
    slices = next((each for each in series.values() if path in [file for file, _ in each]), None)
    if slices is None:
        own = [problem for problem in problems if problem.startswith(f"{path}: ")]
        raise InputError(own or f"{path}: expected a slice of a DICOM series, got {KIND} of another kind")
    with reading(path, "a DICOM series"):
        return _stack(path, slices)


def _stack(path, slices):
    where = f"{path.parent}: series of {path.name}"
    for file, header in slices:
        if int(header["NumberOfFrames"] or 1) > 1:
            raise InputError(
                f"{file}: expected one slice in each file, got {header['NumberOfFrames']}; convert to NIfTI"
            )
        if int(header["SamplesPerPixel"] or 1) > 1 or header["PhotometricInterpretation"] == "PALETTE COLOR":
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
    affine = TO_RAS @ affine
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
