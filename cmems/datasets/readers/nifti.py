"""Reading one NIfTI file: its voxels, and where its header puts them."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from cmems.datasets.readers.files import CHANNEL, check_size, read_out, reading
from cmems.datasets.readers.geometry import regular, settle_frames, settle_spacing
from cmems.errors import InputError

# nibabel mends headers and logs that without the file's name; what matters of it is said in a volume's notes.
nib.imageglobals.logger.setLevel(logging.CRITICAL)

_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, mm, micron; any other code says nothing
_PACKED = (".gz", ".bz2", ".zst")
_UNIT_NAMES = {1: "metres", 3: "microns"}


class Volume(NamedTuple):
    """Voxels in (slice, row, column) order.

    Attributes:
        voxels: ``(D, H, W)``.
        spacing: (slice, row, column) in mm.
        affine: ``(4, 4)`` of the source in mm, columns in its (x, y, z) order.
        frames: The affines that the header states, the one to trust first; empty where it states none.
        notes: What a user should know of the header: pairs of a sentence and its details.
        names: Of a mask that names its labels, the names by number.
        counted: Its labels share numbers in the file, as in several layers, so that these ones count them in order.
        channels: How many the file holds, of which this is one.
        lone: Its slices are planes, each with a place of its own; between them may be others that it does not hold.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    frames: tuple = ()
    notes: tuple = ()
    names: dict | None = None
    counted: bool = False
    channels: int = 1
    lone: bool = False


def read_nifti(path, channel=None, several=CHANNEL):
    """Read a NIfTI volume of real numbers; axes of one voxel beyond the third are dropped, a lone slice is a volume.

    docs/data.md says how spacing, units and affines are settled.

    Args:
        path (str | Path): ``.nii``, ``.nii.gz``, or a pair of ``.hdr`` and ``.img``, in any capitals.
        channel (int | None): Which channel to read of a volume of four axes.
        several (str): What to do where there are several and none is chosen, for the error's message.

    Raises:
        InputError: It is missing, damaged or not NIfTI, has other axes or another kind of voxels, claims more than it
            holds, or its affine is unusable.
    """
    path = Path(path)
    with reading(path, "a NIfTI file"):
        image, raw = _open(path)
        shape = list(image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        if len(shape) < 2 or len(shape) > 4:
            raise InputError(f"{path}: expected a 3-D volume, got shape {image.shape}")
        if len(shape) == 4 and channel is None:
            raise InputError(f"{path}: expected a 3-D volume, got shape {image.shape}; {several}")
        if len(shape) == 4 and not 0 <= channel < shape[3]:
            raise InputError(f"{path}: channel {channel}: expected 0 to {shape[3] - 1}, got shape {image.shape}")
        voxels, channels = _voxels(path, image).reshape(shape), shape[3] if len(shape) == 4 else 1
        if len(shape) == 4:
            voxels = np.ascontiguousarray(voxels[..., channel])
        voxels = voxels.reshape((*voxels.shape, 1)[:3])
        spacing, affine, frames, notes = _geometry(path, image, raw)
    spacing = tuple(spacing[::-1].tolist())
    return Volume(voxels.transpose(2, 1, 0), spacing, affine, frames, tuple(notes), channels=channels)


def nifti_grid(path):
    """Return what :func:`read_nifti` does, voxels unread: zeros that take no memory, and of channels one.

    Raises:
        InputError: As :func:`read_nifti`.
    """
    path = Path(path)
    with reading(path, "a NIfTI file"):
        image, raw = _open(path)
        spacing, affine, frames, notes = _geometry(path, image, raw)
        voxels = np.broadcast_to(np.uint8(0), (*image.shape, 1, 1)[:3]).transpose(2, 1, 0)
    return Volume(voxels, tuple(spacing[::-1].tolist()), affine, frames, tuple(notes))


def nifti_like(path, voxels, description=None):
    """Return the bytes of a NIfTI file with the geometry of the scan at ``path``.

    Args:
        path (str | Path): The scan.
        voxels (np.ndarray): ``(D, H, W)`` uint8; or ``(K, D, H, W)`` uint16, shares of which 65,535 is 1.
        description (str | None): What the header says of the file, up to 79 characters. Default: what the scan's says.
    """
    source, raw = _open(Path(path))
    affine = source.affine
    header = nib.Nifti2Header if isinstance(source, nib.Nifti2Image) else nib.Nifti1Header
    header = header.from_header(source.header, check=False)
    header["vox_offset"] = 0
    header.set_data_dtype(voxels.dtype)
    header["cal_min"], header["cal_max"] = 0, 0
    if description is not None:
        header["descrip"] = description.encode()
    if not regular(affine):  # nibabel's choice of a header's affines may be the unusable one
        affine = _geometry(Path(path), source, raw)[1]
        header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Image) else nib.Nifti1Image
    return _bytes(kind(np.ascontiguousarray(voxels.T), affine, header))


def nifti_description(path):
    """Return what a NIfTI file's header says of it; None where there is no such file, or it is none."""
    try:
        with reading(path, "a NIfTI file"):
            return bytes(nib.load(path).header["descrip"]).rstrip(b"\0").decode(errors="replace")
    except InputError:
        return None


def nifti_of(grid, voxels, description=None):
    """Return the bytes of a NIfTI file with the geometry of a :class:`Volume`; see :func:`nifti_like`."""
    image = nib.Nifti1Image(np.ascontiguousarray(voxels.T), grid.affine)
    image.header.set_xyzt_units("mm")
    if description is not None:
        image.header["descrip"] = description.encode()
    if not grid.frames:  # nothing is known of where it lies
        image.set_qform(None, 0)
        image.set_sform(None, 0)
        image.header.set_zooms((*grid.spacing[::-1], *[1.0] * (voxels.ndim - 3)))
    return _bytes(image)


def _bytes(image):
    """Return an image's file; shares of uint16 get a slope of 1 / 65,535, which nibabel would not write."""
    content = bytearray(image.to_bytes())
    if image.get_data_dtype().newbyteorder("=") == np.uint16:  # in the byte order of the scan
        dtype, offset = image.header.structarr.dtype.fields["scl_slope"]
        content[offset : offset + dtype.itemsize] = np.array(1 / 65535, dtype).tobytes()
    return bytes(content)


def _open(path):
    """Return the image, its voxels unread but known to fit, and its header as the file has it."""
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"{path}: expected NIfTI, got {type(image).__name__}; convert it to .nii.gz")
    with image.file_map.get("header", image.file_map["image"]).get_prepare_fileobj("rb") as handle:
        raw = image.header_class.from_fileobj(handle, check=False)
    dtype = image.header.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "complex" if dtype.kind == "c" else "colour" if dtype.names else str(dtype)
        raise InputError(f"{path}: expected one real number per voxel, got {kind} voxels")
    scaling = [float(raw[key]) for key in ("scl_slope", "scl_inter")]
    if np.isinf(scaling).any():
        raise InputError(f"{path}: expected a finite slope and intercept of the voxels, got {scaling}")
    file = Path(image.file_map["image"].filename)
    packed = file.suffix.lower() in _PACKED
    offset = float(image.dataobj.offset)
    held = os.stat(file).st_size
    if not packed:
        if not 0 <= offset <= held:
            raise InputError(f"{path}: expected voxels inside the file's {held:,} bytes, got offset {offset:.15g}")
        held -= int(offset)
    check_size(path, image.shape, dtype.itemsize, held, packed)
    return image, raw


def _voxels(path, image):
    """Read the voxels; of a compressed file all of it, so that its checksum is compared."""
    file, stored = image.file_map["image"], image.dataobj
    if Path(file.filename).suffix.lower() not in _PACKED:
        return np.asanyarray(stored)
    with file.get_prepare_fileobj("rb") as handle:
        spec = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
        voxels = np.asanyarray(ArrayProxy(handle.fobj, spec, mmap=False))
        read_out(handle, path, voxels.size * stored.dtype.itemsize)
    return voxels


def _geometry(path, image, raw):
    """Return spacing ``(3,)`` in mm by (x, y, z), affine, frames and notes."""
    unit = int(raw["xyzt_units"]) & 7
    scale = _UNITS.get(unit, 1.0)
    to_mm = np.diag([scale, scale, scale, 1.0])
    sform = raw.get_sform(coded=True)[0]
    try:
        qform = image.header.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):  # a quaternion that is none
        qform = np.full((4, 4), np.nan)
    frames, notes = settle_frames(path, *(None if f is None else to_mm @ f for f in (sform, qform)))
    pixdim = np.ones(3)
    count = min(3, len(image.shape))
    pixdim[:count] = np.asarray(raw["pixdim"], dtype=float)[1 : 1 + count] * scale
    spacing, more = settle_spacing(pixdim, frames)
    if unit in _UNIT_NAMES:
        notes.append(("voxel sizes in another unit than mm are converted", _UNIT_NAMES[unit]))
    affine = frames[0] if frames else to_mm @ np.asarray(image.affine, dtype=float)
    affine = affine if regular(affine) else np.diag([*spacing, 1.0])
    return spacing, affine, frames, [*notes, *more]
