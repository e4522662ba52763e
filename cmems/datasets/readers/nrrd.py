"""Reading NRRD, the format of 3D Slicer: scans, masks, and segmentations with the names of their segments."""

import bz2
import gzip
from pathlib import Path

import numpy as np

from cmems.datasets.readers.files import CHANNEL, check_size, need, read_out, reading
from cmems.datasets.readers.geometry import settle_frames, settle_spacing
from cmems.datasets.readers.nifti import Volume
from cmems.errors import InputError

_KIND = "an NRRD file"
_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_NUMPY = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
# From the space that a header names to right, anterior, superior.
_TO_RAS = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_OPENERS = {"raw": lambda f: f, "gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}
OVERLAP = "segments overlap; where they do, the later one is taken"


def read_nrrd(path, channel=None, several=CHANNEL):
    """Read an NRRD volume of real numbers.

    Of a segmentation, as 3D Slicer saves it, the voxels have the label values of its segments, and ``names`` gives
    their names by these. Where segments share a value, as in several layers, they are numbered from 1 in their order.

    Args:
        path (str | Path): ``.nrrd`` or ``.seg.nrrd``, its voxels in the same file.
        channel (int | None): Which to read of a volume of four axes.
        several (str): What to do where there are several and none is chosen, for the error's message.

    Raises:
        InputError: It is missing, damaged or not NRRD, has other axes, claims more than it holds, or names another
            file for its voxels.
    """
    path = Path(path)
    with reading(path, _KIND), open(path, "rb") as handle:
        header, dtype, sizes = _header(path, handle)
        spatial, listed = _axes(path, header, sizes)
        segments = _segments(header)
        if listed is not None and sizes[listed] == 1:
            channel = 0
        if listed is not None and channel is None and not segments:
            raise InputError(f"{path}: expected a 3-D volume, got sizes {sizes}; {several}")
        if listed is not None and not segments and not 0 <= channel < sizes[listed]:
            raise InputError(f"{path}: channel {channel}: expected 0 to {sizes[listed] - 1}, got sizes {sizes}")
        count = int(np.prod(sizes)) * dtype.itemsize
        with _OPENERS[header["encoding"].lower()](handle) as data:
            content = data.read(count)
            if len(content) != count:
                raise InputError(f"{path}: truncated: expected {count:,} bytes of voxels, got {len(content):,}")
            if data is not handle:
                read_out(data, path, count)
        voxels = np.frombuffer(content, dtype).reshape(sizes[::-1])
        voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
        layers = voxels[None] if listed is None else np.moveaxis(voxels, len(sizes) - 1 - listed, 0)
        layers = layers.reshape(len(layers), *_shape(sizes, spatial))
        grid = _grid(path, header, sizes, spatial)
        if not segments:
            return grid._replace(voxels=layers[channel or 0 if listed is not None else 0], channels=len(layers))
        voxels, overlap = _flat(path, layers, segments)
    notes = ((OVERLAP, f"{overlap} voxels"),) if overlap else ()
    return _named(grid, segments)._replace(voxels=voxels, notes=grid.notes + notes)


def nrrd_grid(path):
    """Return what :func:`read_nrrd` does, voxels unread: zeros that take no memory.

    Raises:
        InputError: As :func:`read_nrrd`.
    """
    path = Path(path)
    with reading(path, _KIND), open(path, "rb") as handle:
        header, _, sizes = _header(path, handle)
        segments = _segments(header)
        return _named(_grid(path, header, sizes, _axes(path, header, sizes)[0]), segments)


def _header(path, handle):
    """Return header, type and sizes, which fit; ``handle`` is left where the voxels begin."""
    nrrd = need("nrrd", path, "formats")
    header = {key.lower(): value for key, value in nrrd.read_header(handle).items()}
    if "data file" in header or "datafile" in header:
        raise InputError(
            f"{path}: expected the voxels in the same file, got a header that names another; save as .nrrd"
        )
    if any(int(header.get(key, 0)) for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise InputError(f"{path}: expected voxels right after the header, got one that skips bytes; save it again")
    if header["type"].lower() not in _NUMPY:
        raise InputError(f"{path}: expected one real number per voxel, got type {header['type']!r}")
    if header["encoding"].lower() not in _OPENERS:
        raise InputError(f"{path}: expected encoding raw, gzip or bzip2, got {header['encoding']!r}")
    order = {"little": "<", "big": ">"}[header.get("endian", "little").lower()]
    dtype, sizes = np.dtype(order + _NUMPY[header["type"].lower()]), [int(n) for n in header["sizes"]]
    if len(sizes) != int(header["dimension"]) or not 2 <= len(sizes) <= 4:
        raise InputError(f"{path}: expected a 3-D volume, got sizes {sizes}")
    held = path.stat().st_size - handle.tell()
    check_size(path, tuple(sizes), dtype.itemsize, held, header["encoding"].lower() != "raw")
    return header, dtype, sizes


def _axes(path, header, sizes):
    """Return which axes are of space, and which lists channels or layers, None where none does."""
    count = len(sizes)
    steps = header.get("space directions", header.get("spacings"))
    if steps is not None and len(steps) == count:
        space = [i for i in range(count) if steps[i] is not None and np.isfinite(np.asarray(steps[i], float)).all()]
    elif "kinds" in header and len(header["kinds"]) == count:
        space = [i for i in range(count) if header["kinds"][i].lower() in ("domain", "space", "???", "none")]
    else:
        space = list(range(count))[-3:]
    listed = [i for i in range(count) if i not in space]
    if len(space) > 3 or len(space) < 2 or len(listed) > 1:
        raise InputError(f"{path}: expected a 3-D volume, got sizes {sizes}, of which {len(space)} are of space")
    return space, listed[0] if listed else None


def _shape(sizes, spatial):
    """Return (z, y, x); a lone slice is a volume."""
    return tuple([1] * (3 - len(spatial)) + [sizes[i] for i in spatial][::-1])


def _grid(path, header, sizes, spatial):
    """Return a :class:`Volume` of zeros that take no memory."""
    directions, sides = header.get("space directions"), np.ones(3)
    unit = {"um": 1e-3, "µm": 1e-3, "cm": 10.0, "m": 1e3}.get(str(list(header.get("space units", ["mm"]))[0]), 1.0)
    signs = _TO_RAS.get(str(header.get("space", "")).lower())
    stated = None
    if directions is not None:
        columns = np.array([directions[i] for i in spatial], float).T * unit
        sides[: len(spatial)] = np.linalg.norm(columns, axis=0)
        if signs and columns.shape == (3, 3):
            stated = np.eye(4)
            stated[:3, :3] = np.diag(signs) @ columns
            stated[:3, 3] = signs * np.asarray(header.get("space origin", (0, 0, 0)), float) * unit
    elif "spacings" in header:
        sides[: len(spatial)] = [float(header["spacings"][i]) for i in spatial]
    frames, notes = settle_frames(path, stated, None)
    spacing, more = settle_spacing(sides if directions is not None or "spacings" in header else np.zeros(3), frames)
    affine = frames[0] if frames else np.diag([*spacing, 1.0])
    zeros = np.broadcast_to(np.uint8(0), _shape(sizes, spatial))
    return Volume(zeros, tuple(spacing[::-1].tolist()), affine, frames, tuple([*notes, *more]))


def _segments(header):
    """Return name, layer and label value of each segment, in order; none of a plain volume."""
    found = []
    while any(key.startswith(f"segment{len(found)}_") for key in header):
        own = f"segment{len(found)}_"
        name = str(header.get(f"{own}name", header.get(f"{own}id", f"Segment_{len(found) + 1}")))
        # Files of Slicer before 4.11 say neither: every segment was a layer of its own.
        layer, value = (
            int(header.get(own + key, default)) for key, default in (("layer", len(found)), ("labelvalue", 1))
        )
        found.append((name, layer, value))
    return found


def _numbers(segments):
    """Return the number of each segment: its label value, or, where values tell them not apart, its place from 1 on."""
    values = [value for *_, value in segments]
    apart = len({*values}) == len(values) and all(0 < value < 1 << 16 for value in values)
    return values if apart else list(range(1, len(values) + 1))


def _named(grid, segments):
    """Return a :class:`Volume` with the names of segments by their numbers."""
    numbers = _numbers(segments)
    names = dict(zip(numbers, (name for name, *_ in segments), strict=True)) or None
    return grid._replace(names=names, counted=numbers != [value for *_, value in segments])


def _flat(path, layers, segments):
    """Return one label map, segments by their numbers, and how many voxels several of them claim."""
    if len(segments) > 254:
        raise InputError(f"{path}: expected 254 segments or fewer, got {len(segments)}")
    flat, overlap = np.zeros(layers.shape[1:], np.uint16), 0
    for number, (name, layer, value) in zip(_numbers(segments), segments, strict=True):
        if not 0 <= layer < len(layers):
            raise InputError(f"{path}: segment {name!r}: layer {layer} of {len(layers)}")
        mine = layers[layer] == value
        overlap += int(np.count_nonzero(flat[mine]))
        flat[mine] = number
    return flat, overlap
