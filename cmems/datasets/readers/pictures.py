"""Reading images of two axes, and stacks of them: PNG, TIFF, BMP, and JPEG for scans."""

import math
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageMode, ImageOps

from cmems.datasets.readers.files import check_size, reading
from cmems.datasets.readers.nifti import Volume
from cmems.errors import InputError

_KIND = "a readable image"
_FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
_NOTES = (("images hold no voxel size; 1 mm is taken", ""),)
_GREY = ("1", "L", "I", "F")
_COLOUR = "colours are turned to grey"
_TURNED = "the image is turned as its EXIF says that it is shown"
_ORIENTATION, _DESCRIPTION, _PHOTOMETRIC, _FORMAT, _BITS = 274, 270, 262, 339, 258  # tags
# Pixels of TIFF that Pillow reads as others of as many bits, by format (1 without a sign, 2 with one) and bits.
_AS_STORED = {(2, 8): np.int8, (1, 32): np.uint32}
# By what Pillow multiplies pixels of two and four bits, so that they take all of eight.
_SPREAD = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}
# How ImageJ and OME say what the pages of a TIFF are.
_PAGES = re.compile(r'^(images|channels|slices|frames)=(\d{1,9})|\bSize([CZT])="(\d{1,9})"', re.MULTILINE)
_SHAPE = re.compile(r'\{"shape": \[(\d{1,9}(?:, \d{1,9})*)\]')  # as tifffile says it
_OME = {"C": "channels", "Z": "slices", "T": "frames"}


def read_picture(path, labels=False):
    """Read an image as a volume of one slice, or a TIFF of several pages as one of as many, pixels of 1 mm.

    Its pixels lie as the file says that they are shown.

    Args:
        path (str | Path): ``.png``, ``.tif``, ``.bmp`` or ``.jpg``, 8 or 16 bits; colours are turned to grey.
        labels (bool): It is a mask: of an indexed image the indices count, colours are refused, and so is JPEG, which
            blurs labels.

    Raises:
        InputError: It is missing, damaged or no image, has several frames, claims more than it holds, or its zero is
            white where that would be lost.
    """
    path = Path(path)
    with reading(path, _KIND), _opened(path) as image:
        if labels and image.format == "JPEG":
            raise InputError(f"{path}: JPEG blurs labels; save the mask as PNG")
        inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
        if inverted and (labels or image.mode not in ("1", "L")):  # of which Pillow inverts all, labels too
            raise InputError(f"{path}: expected grey whose zero is black, got white-is-zero; save it as black-is-zero")
        pages, notes = [], dict.fromkeys(() if labels else _NOTES)
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            stored, tiles = _stored(image), str(image.tile)  # gone once it is decoded, as asking for EXIF does
            if image.size != (image_size := pages[0].shape[::-1] if pages else image.size):
                raise InputError(f"{path}: expected pages of {image_size} pixels, got {image.size}")
            if len(image.getbands()) > 1 and ";16" in tiles:  # of which Pillow drops the lower half
                raise InputError(
                    f"{path}: expected colours of 8 bits or grey of 16, got colours of 16; save it as grey"
                )
            if (turn := image.getexif().get(_ORIENTATION, 1)) in range(2, 9):
                notes[_TURNED, f"orientation {turn}"] = None
            pixels, coloured = _grey(path, ImageOps.exif_transpose(image), labels, stored)
            if labels:
                pixels = pixels // next((by for kind, by in _SPREAD.items() if f"'{kind}'" in tiles), 1)
            pages.append(pixels)
            if coloured:
                notes[_COLOUR, ""] = None
    return _volume(np.stack(pages), tuple(notes))


def picture_grid(path):
    """Return what :func:`read_picture` does, pixels unread: zeros that take no memory."""
    path = Path(path)
    with reading(path, _KIND), _opened(path) as image:
        # Pillow turns TIFF itself, and has its size as turned.
        across = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in range(5, 9)
        shape = image.size if across else image.size[::-1]
        return _volume(np.broadcast_to(np.uint8(0), (getattr(image, "n_frames", 1), *shape)), _NOTES)


def _volume(voxels, notes):
    return Volume(voxels, (1.0, 1.0, 1.0), np.eye(4), (), notes)


@contextmanager
def _opened(path):
    """Give an image whose pixels fit; none is decoded yet."""
    # By a handle: of a path, Pillow maps plain TIFF to memory, and scrambles those that are to be turned.
    with open(path, "rb") as handle, Image.open(handle, formats=_FORMATS) as image:
        pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "TIFF":
            raise InputError(f"{path}: expected one image, got {pages} frames")
        itemsize = np.dtype(ImageMode.getmode(image.mode).typestr).itemsize * len(image.getbands())
        check_size(path, (pages, *image.size[::-1]), itemsize, path.stat().st_size, True)
        if image.format == "TIFF" and len(image.getbands()) == 1:
            _need_slices(path, pages, math.prod(image.size), str(image.tag_v2.get(_DESCRIPTION, "")))
        yield image


def _need_slices(path, pages, size, text):
    """Refuse pages of ``size`` pixels that are several channels, or times of several slices, or not all that there are,
    by the description of a TIFF.
    """
    held = {name or _OME[axis]: int(count or size) for name, count, axis, size in _PAGES.findall(text)}
    channels, slices, times = (held.get(name, 1) for name in _OME.values())
    if channels > 1 or min(slices, times) > 1:
        raise InputError(
            f"{path}: expected a page for each slice, got {pages}, of {channels} channels, {slices} slices and {times} "
            "times; save one channel of one time"
        )
    # Large stacks of ImageJ and tifffile have one page, and the others' pixels behind it.
    shape = _SHAPE.match(text)
    told = max(held.get("images", 1), slices * times, math.prod(map(int, shape[1].split(","))) // size if shape else 1)
    if told > pages:
        raise InputError(f"{path}: expected a page for each slice, got {pages} of {told}; save it as .nii.gz")


def _stored(image):
    """Return the dtype of a page's pixels where Pillow reads them as another; else None."""
    if image.format != "TIFF":
        return None
    kind, bits = (image.tag_v2.get(tag, 1) for tag in (_FORMAT, _BITS))
    first = [each[0] if isinstance(each, tuple) else each for each in (kind, bits)]
    return _AS_STORED.get(tuple(first)) if len(image.getbands()) == 1 else None


def _grey(path, image, labels, stored=None):
    """Return the pixels ``(H, W)`` of the current page, and whether it has colours; see :func:`_stored`."""
    if image.mode in _GREY or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        pixels = pixels.astype(np.uint8 if pixels.dtype == bool else pixels.dtype.newbyteorder("="))
        return pixels if stored is None else pixels.view(stored), False
    if labels and image.mode == "P":
        return np.asarray(image), False
    colours = np.asarray(image.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return colours[..., 0], False
    if labels:
        raise InputError(f"{path}: expected a grey or indexed mask, whose numbers are labels, got colours")
    return np.asarray(image.convert("RGB").convert("L")), True
