"""Cases that a page shows slice by slice: cropped, small, and as text."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

from cmems.visualization.panels import crop, masks_of, orientation, scale_length

SIDE = 256  # pixels of a slice's longer side, at most
_HEAT = "inferno"  # of matplotlib: lightness tells the value, whatever the eye
_QUALITY = 80


def small(sample, entropies=None):
    """Cut a volume down to what is shown of it: the region of its masks, as radiologists read it.

    Args:
        sample (dict): As :func:`cmems.visualization.panels.panel` takes it.
        entropies (np.ndarray | None): (D, H, W) in [0, 1].

    Returns:
        dict: ``case``; ``image``, ``doubt`` (or None) and ``masks`` by column, (D, h, w) uint8, h and w at most
        :data:`SIDE`, 255 in the reference where it is unknown; ``mm``, height and width; ``letters`` of the sides, or
        None; ``shape`` of the whole volume.
    """
    masks, label = masks_of(sample), sample.get("label")
    if label is not None:
        masks["reference"] = np.asarray(label)  # with what is unknown
    image = np.asarray(sample["image"])
    seen = [np.where(found == 255, 0, found).max(axis=0) for found in masks.values()]
    top, bottom, left, right = crop(seen, image.shape[1:])
    flips, letters = orientation(sample.get("affine"), sample["spacing"])
    height, width = bottom - top, right - left
    size = tuple(min(SIDE, n) for n in (height, width))

    def cut(volume, resample):
        planes = [plane[flips] for plane in volume[:, top:bottom, left:right]]
        if size != (height, width):
            planes = [np.asarray(Image.fromarray(np.ascontiguousarray(p)).resize(size[::-1], resample)) for p in planes]
        return np.stack(planes)

    def grey(volume):
        if volume is None:
            return None
        levels = np.rint(np.asarray(volume, np.float32).clip(0, 1) * 255).astype(np.uint8)
        return cut(levels, Image.Resampling.BOX)

    return dict(
        case=sample["case"],
        masks={name: cut(found.astype(np.uint8), Image.Resampling.NEAREST) for name, found in masks.items()},
        mm=(height * float(sample["spacing"][1]), width * float(sample["spacing"][2])),
        image=grey(image),
        doubt=grey(entropies),
        letters=letters,
        shape=image.shape,
    )


def coded(shown, slices):
    """Return slices of a case of :func:`small` as texts.

    Args:
        shown (dict): The case.
        slices (sequence[int]): Which.

    Returns:
        list[dict]: By slice: ``z``; ``image`` and ``doubt``, WebP pictures, base64; ``masks`` by column, see
        :func:`runs`.
    """
    colors = (matplotlib.colormaps[_HEAT](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    found = []
    for z in slices:
        doubt = None if shown["doubt"] is None else _webp(colors[shown["doubt"][z]])
        masks = {name: runs(mask[z]) for name, mask in shown["masks"].items()}
        found.append(dict(z=z, image=_webp(shown["image"][z]), doubt=doubt, masks=masks))
    return found


def about(shown):
    """Return what is true of all slices of a case."""
    length = scale_length(shown["mm"][1])
    return dict(
        name=shown["case"],
        size=shown["image"].shape[1:],
        mm=[round(n, 3) for n in shown["mm"]],
        slices=shown["shape"][0],
        letters=shown["letters"],
        bar=dict(text=f"{length:g} mm", share=length / shown["mm"][1]),
    )


def runs(mask):
    """Return a mask's runs, row after row: a byte of the label, then the length, seven bits a byte, the low ones first.

    Args:
        mask (np.ndarray): (h, w) uint8.

    Returns:
        str: base64.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    out = bytearray()
    for label, length in zip(flat[starts], np.diff(np.append(starts, flat.size)), strict=True):
        out.append(int(label))
        length = int(length)
        while length > 127:
            out.append(length & 127 | 128)
            length >>= 7
        out.append(length)
    return base64.b64encode(bytes(out)).decode()


def heat_stops(count=6):
    """Return colours of the doubt's scale, from 0 to 1, as ``#RRGGBB``."""
    return [matplotlib.colors.to_hex(color) for color in matplotlib.colormaps[_HEAT](np.linspace(0, 1, count))]


def _webp(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "WEBP", quality=_QUALITY, method=4)
    return base64.b64encode(held.getvalue()).decode()
