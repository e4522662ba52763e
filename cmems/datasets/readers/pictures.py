"""Reading images of two axes, and stacks of them: PNG, TIFF, BMP, and JPEG for scans."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageMode

from cmems.datasets.readers.files import check_size, reading
from cmems.datasets.readers.nifti import Volume
from cmems.errors import InputError

_KIND = "a readable image"
_FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
_NOTES = (("images hold no voxel size; 1 mm is taken", ""),)
_GREY = ("1", "L", "I", "F")
_COLOUR = "colours are turned to grey"


def read_picture(path, labels=False):
    """Read an image as a volume of one slice, or a TIFF of several pages as one of as many, pixels of 1 mm.

    Args:
        path (str | Path): ``.png``, ``.tif``, ``.bmp`` or ``.jpg``, 8 or 16 bits; colours are turned to grey.
        labels (bool): It is a mask: of an indexed image the indices count, colours are refused, and so is JPEG, which
            blurs labels.

    Raises:
        InputError: It is missing, damaged or no image, has several frames, or claims more than it holds.
    """
    path = Path(path)
    with reading(path, _KIND), _open(path) as image:
        if labels and image.format == "JPEG":
            raise InputError(f"{path}: JPEG blurs labels; save the mask as PNG")
        pages, colour = [], False
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            if image.size != (image_size := pages[0].shape[::-1] if pages else image.size):
                raise InputError(f"{path}: expected pages of {image_size} pixels, got {image.size}")
            pixels, coloured = _grey(path, image, labels)
            pages.append(pixels)
            colour |= coloured
    notes = (*_NOTES, (_COLOUR, "")) if colour else _NOTES
    return _volume(np.stack(pages), notes)


def picture_grid(path):
    """Return what :func:`read_picture` does, pixels unread: zeros that take no memory."""
    path = Path(path)
    with reading(path, _KIND), _open(path) as image:
        return _volume(np.broadcast_to(np.uint8(0), (getattr(image, "n_frames", 1), *image.size[::-1])), _NOTES)


def _volume(voxels, notes):
    return Volume(voxels, (1.0, 1.0, 1.0), np.eye(4), (), notes)


def _open(path):
    """Open an image whose pixels fit; none is decoded yet."""
    with open(path, "rb"):  # Pillow names no file in its errors
        image = Image.open(path, formats=_FORMATS)
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "TIFF":
        raise InputError(f"{path}: expected one image, got {pages} frames")
    itemsize = np.dtype(ImageMode.getmode(image.mode).typestr).itemsize * len(image.getbands())
    check_size(path, (pages, *image.size[::-1]), itemsize, path.stat().st_size, True)
    return image


def _grey(path, image, labels):
    """Return the pixels ``(H, W)`` of the current page, and whether it has colours."""
    if image.mode in _GREY or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return pixels.astype(np.uint8 if pixels.dtype == bool else pixels.dtype.newbyteorder("=")), False
    if labels and image.mode == "P":
        return np.asarray(image), False
    colours = np.asarray(image.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return colours[..., 0], False
    if labels:
        raise InputError(f"{path}: expected a grey or indexed mask, whose numbers are labels, got colours")
    return np.asarray(image.convert("RGB").convert("L")), True
