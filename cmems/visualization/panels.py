"""Overlay panels: what each model drew, beside the reference, on the slices where it matters."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cmems.datasets.readers.scans import described
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.visualization.colors import class_colors
from cmems.visualization.tables import model_label

TILE = 288  # pixels of a tile's longer side
GAP = 6
FILL = 0.25  # opacity inside a contour; the contour itself is opaque
_TEXT, _DIM, _PAPER = (240, 240, 240), (160, 160, 160), (20, 20, 20)
_SOFTWARE = "CMEMS"  # of the PNG standard's keyword Software: what may be drawn anew
_LENGTHS = tuple(n * 10**k for k in range(-3, 4) for n in (1, 2, 5))  # of scale bars, mm


def panel(sample, slices=None, classes=(), fill=FILL):
    """Draw one volume: a row per slice; columns image, reference (where there is one), each network, ensemble.

    Organs are filled lightly and outlined in the colours of :func:`cmems.visualization.colors.class_colors`. All tiles
    show the same region, around everything that any of them outlines, with the pixels' true aspect. Where a true
    affine says that slices are axial, the patient's right is on the left and anterior is up, as radiologists read
    them; else slices are shown as stored. Above each column stands the DSC of the whole volume, below each tile that of
    its slice, both over the classes that either mask has, where the reference is known; a bar in the image has its
    length beside it.

    Args:
        sample (dict): An evaluation sample: ``case``, ``spacing`` (z, y, x) mm, ``image`` (D, H, W) in [0, 1],
            ``label`` (D, H, W), 255 where unknown, or None, ``predictions`` by model, optionally ``affine`` (4, 4).
        slices (int | sequence[int] | None): How many slices, or which. Default 3: the labelled range is split in as
            many parts, and each gives the slice with most disagreement.
        classes (sequence[str]): Foreground classes; names for the legend.
        fill (float): Opacity inside the outlines; 0: outlines alone.

    Returns:
        np.ndarray: (H, W, 3) uint8.
    """
    masks, unknown = masks_of(sample), sample.get("label") is not None and sample["label"] == 255
    image = np.asarray(sample["image"], dtype=np.float32)
    shown = choose_slices(masks, 3 if slices is None else slices)
    top, bottom, left, right = crop([found[z] for found in masks.values() for z in shown], image.shape[1:])
    flips, letters = orientation(sample.get("affine"), sample["spacing"])
    names = class_names(classes, masks)
    colors = class_colors(len(names))
    size = _tile_size(bottom - top, right - left, sample["spacing"])
    known = {name: np.where(unknown, 0, found) for name, found in masks.items()}

    def tile(array, z, resample):
        return _resized(array[z, top:bottom, left:right][flips], size, resample)

    columns, rows = ["image", *masks], []
    for z in shown:
        grey = tile(np.rint(image.clip(0, 1) * 255).astype(np.uint8), z, Image.Resampling.BICUBIC)
        grey = np.repeat(grey[:, :, None], 3, axis=2)
        tiles = [(grey, _caption(f"slice {z + 1} of {len(image)}, index {z}"))]
        for name, found in masks.items():
            drawn = overlay(grey, tile(found, z, Image.Resampling.NEAREST), colors, fill)
            scored = "reference" in masks and name != "reference"
            tiles.append((drawn, _scores(known[name][z], known["reference"][z], names, colors) if scored else []))
        rows.append(tiles)
    if "reference" in masks:
        for name in list(masks)[1:]:
            values = dice_by_class(known[name], known["reference"], names)
            columns[columns.index(name)] += f": volume {np.mean(list(values.values())):.2f}" if values else ""
    length = scale_length((right - left) * float(sample["spacing"][2]))
    bar = length, size[1] * length / ((right - left) * float(sample["spacing"][2]))
    spacing = " x ".join(f"{mm:.4g}" for mm in (sample["spacing"][2], sample["spacing"][1], sample["spacing"][0]))
    scope = "    DSC: of the volume above, of each slice below it" if "reference" in masks else ""
    title = f"{sample['case']}    voxel {spacing} mm{scope}"
    return _sheet(title, columns, rows, names, colors, letters, bar)


def masks_of(sample):
    """Return a sample's label maps by column, ``reference`` (unknown is background) first where there is one."""
    masks = {} if sample.get("label") is None else {"reference": np.where(sample["label"] == 255, 0, sample["label"])}
    return masks | {model_label(name): np.asarray(found) for name, found in sample["predictions"].items()}


def class_names(classes, masks):
    """Return a name for every class that the masks hold, those that are known first."""
    highest = max((int(found.max(initial=0)) for found in masks.values()), default=0)
    return [*classes, *(f"class {k + 1}" for k in range(len(classes), highest))]


def dice_by_class(found, reference, names):
    """Return the Dice of two label maps by the classes that either has."""
    values = {}
    for k, name in enumerate(names, 1):
        a, b = found == k, reference == k
        if a.any() or b.any():
            values[name] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    return values


def scale_length(width):
    """Return the length of a scale bar, mm, that takes at most three tenths of ``width`` mm: 1, 2 or 5 of a power."""
    return max((length for length in _LENGTHS if length <= 0.3 * width), default=_LENGTHS[0])


def contact_sheet(tiles, columns=5):
    """Draw slices of several volumes beside each other, each whole, with true aspect, turned as :func:`panel` does.

    Args:
        tiles (sequence[dict]): ``image`` (H, W) in [0, 1], ``spacing`` (z, y, x) mm, ``captions``, lines of text, and
            optionally ``affine`` (4, 4) and ``label`` (H, W) uint8, whose unknown pixels, 255, are darkened.
        columns (int): Tiles in a row.

    Returns:
        np.ndarray: (H, W, 3) uint8.
    """
    rows, lines = -(-len(tiles) // columns), max(len(tile["captions"]) for tile in tiles)
    cell, tall = TILE + GAP, TILE + 18 * lines + 2 * GAP
    sheet = Image.new("RGB", (min(columns, len(tiles)) * cell + GAP, rows * tall + GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for n, tile in enumerate(tiles):
        flips, letters = orientation(tile.get("affine"), tile["spacing"])
        height, width = size = _tile_size(*tile["image"].shape, tile["spacing"])
        image, label = np.asarray(tile["image"], np.float32).clip(0, 1), tile.get("label")
        if label is not None:
            image = np.where(label == 255, 0.4 * image, image)
        shown = _resized(np.rint(image * 255).astype(np.uint8)[flips], size, Image.Resampling.BICUBIC)
        if label is not None:
            known = np.where(label == 255, 0, label)[flips]
            colors = class_colors(int(known.max(initial=0)))
            shown = overlay(np.stack([shown] * 3, -1), _resized(known, size, Image.Resampling.NEAREST), colors)
        x, y = GAP + n % columns * cell, GAP + n // columns * tall
        left, top = x + (TILE - width) // 2, y + (TILE - height) // 2
        sheet.paste(Image.fromarray(shown), (left, top))
        if letters:
            _draw_letters(draw, letters, left, top, width, height)
        for k, text in enumerate(tile["captions"]):
            draw.text((x, y + TILE + 3 + 18 * k), text, _DIM if k else _TEXT, _font(13))
    return np.asarray(sheet)


def write_png(path, image, description=None):
    """Write an (H, W, 3) uint8 image as PNG, marked as drawn here; a whole file or none.

    Args:
        path (str | Path): Where to.
        image (np.ndarray): The pixels.
        description (str | None): What its header says of it, see :func:`cmems.datasets.readers.scans.description_of`.
    """
    mark = described(description)
    mark.add_text("Software", _SOFTWARE)
    with whole_file(path) as part:
        Image.fromarray(image).save(part, format="PNG", pnginfo=mark)
    return Path(path)


def check_pictures(option, paths):
    """Find the pictures that :func:`write_png` would replace though it has not drawn them, before the work for them.

    Args:
        option (str): For messages.
        paths (iterable[str | Path]): Where to.

    Raises:
        InputError: A file is there that is no picture of ours: a scan, say.
    """
    for path in filter(Path.exists, map(Path, paths)):
        try:
            with Image.open(path) as image:
                drawn_here = image.info.get("Software") == _SOFTWARE
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            drawn_here = False
        if not drawn_here:
            raise InputError(f"{option}: {path} is there and was not drawn by cmems; name another folder, or remove it")


def overlay(grey, labels, colors, fill=FILL):
    """Fill and outline labels.

    Args:
        grey (np.ndarray): (H, W, 3) uint8.
        labels (np.ndarray): (H, W) uint8, 0 is background.
        colors (sequence[tuple]): RGB of classes 1, 2, ….
        fill (float): Opacity inside the outlines.

    Returns:
        np.ndarray: (H, W, 3) uint8; the outer two pixels of each class have its very colour. A black pixel on either
        side of them keeps any colour apart from any grey.
    """
    out = grey.astype(np.float32)
    organs = labels > 0
    out[~organs & ~_eroded(~organs, beyond=True)] = 0
    for k, color in enumerate(colors, 1):
        mask = labels == k
        out[mask] = (1 - fill) * out[mask] + fill * np.array(color)
        inside = _eroded(_eroded(mask))
        out[inside & ~_eroded(inside)] = 0
        out[mask & ~inside] = color
    return np.rint(out).astype(np.uint8)


def _eroded(mask, beyond=False):
    p = np.pad(mask, 1, constant_values=beyond)
    return mask & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]


def choose_slices(masks, slices):
    """Return the slices to show, ascending.

    Args:
        masks (dict[str, np.ndarray]): (D, H, W) labels by column; the first is the reference where there is one.
        slices (int | sequence[int]): How many, or which.
    """
    if not isinstance(slices, int):
        return list(slices)
    stack = np.stack(list(masks.values()))
    labelled = np.flatnonzero((stack[: 1 if "reference" in masks else None] > 0).any(axis=(0, 2, 3)))
    if len(labelled) == 0:
        labelled = np.arange(stack.shape[1])
    disagreement = (stack != stack[0]).sum(axis=(0, 2, 3))
    parts = np.array_split(labelled, min(slices, len(labelled)))
    return [int(part[np.argmax(disagreement[part])]) for part in parts]


def crop(planes, shape):
    """Return top, bottom, left, right around all foreground with a margin, or the whole plane."""
    seen = np.any([plane > 0 for plane in planes], axis=0) if planes else np.zeros(shape, bool)
    if not seen.any():
        return 0, shape[0], 0, shape[1]
    box = []
    for axis in (0, 1):
        hit = np.flatnonzero(seen.any(axis=1 - axis))
        margin = max(8, round(0.2 * (hit[-1] - hit[0] + 1)))
        box += [max(0, hit[0] - margin), min(shape[axis], hit[-1] + 1 + margin)]
    return tuple(int(edge) for edge in box)


def orientation(affine, spacing):
    """Return the flips (rows, columns) for radiological display and the letters at left, right, top and bottom.

    An affine whose steps are not the spacing is a placeholder (ACDC's) and says nothing of the patient.
    """
    as_stored = (slice(None), slice(None)), None
    if affine is None:
        return as_stored
    steps = np.asarray(affine, dtype=float)[:3, :2]
    true_size = np.allclose(np.linalg.norm(steps, axis=0), (spacing[2], spacing[1]), rtol=0.01)
    if not true_size or np.abs(steps[:, 0]).argmax() != 0 or np.abs(steps[:, 1]).argmax() != 1:
        return as_stored
    back = slice(None, None, -1)  # NIfTI worlds grow towards right and anterior
    return (back if steps[1, 1] > 0 else slice(None), back if steps[0, 0] > 0 else slice(None)), "RLAP"


def _tile_size(rows, columns, spacing):
    """Return (height, width) in pixels of a tile that shows millimetres truly."""
    height, width = rows * float(spacing[1]), columns * float(spacing[2])
    scale = TILE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(array, size, resample):
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size[::-1], resample))


def _caption(text, color=_DIM):
    return [(text, color)]


def _scores(found, reference, names, colors):
    """Return the caption of a tile: mean DSC over the classes that either has, and each class in its colour."""
    values = dice_by_class(found, reference, names)
    if not values:
        return _caption("both empty")
    parts = [(f"DSC {np.mean(list(values.values())):.2f}", _TEXT)]
    if len(names) <= 4:
        parts += [(f"{n} {values[n]:.2f}", c) for n, c in zip(names, colors, strict=True) if n in values]
    return parts


def _sheet(title, columns, rows, names, colors, letters, bar):
    """Lay tiles, headings, captions and the legend out on one sheet; ``bar`` is a length in mm and in pixels."""
    height, width = rows[0][0][0].shape[:2]
    cell = max(width, 250)  # room for the scores below a narrow tile
    title_at, tiles_at, caption = 28, 56, 26
    sheet_width = max(len(columns) * (cell + GAP) + GAP, 560)
    legend = _flow(names, sheet_width - 2 * GAP)
    tall = tiles_at + len(rows) * (height + caption) + 26 * len(legend) + GAP
    sheet = Image.new("RGB", (sheet_width, tall), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 6), title, fill=_TEXT, font=_font(15))
    for c, heading in enumerate(columns):
        draw.text((GAP + c * (cell + GAP) + cell // 2, title_at + 4), heading, _TEXT, _font(15, bold=True), "ma")
    for r, tiles in enumerate(rows):
        y = tiles_at + r * (height + caption)
        for c, (pixels, parts) in enumerate(tiles):
            x = GAP + c * (cell + GAP) + (cell - width) // 2
            sheet.paste(Image.fromarray(pixels), (x, y))
            if c == 0 and letters:
                _draw_letters(draw, letters, x, y, width, height)
            if c == 0:
                _draw_bar(draw, *bar, x + 8, y + height - 10)
            at = x
            for text, color in parts:
                draw.text((at, y + height + 3), text, color, _font(13))
                at += draw.textlength(text, _font(13)) + 10
    y = tall - 26 * len(legend) - 2
    for line in legend:
        at = GAP
        for k in line:
            draw.rectangle((at, y + 3, at + 14, y + 17), fill=colors[k])
            draw.text((at + 20, y + 1), names[k], _TEXT, _font(15))
            at += 44 + draw.textlength(names[k], _font(15))
        y += 26
    return np.asarray(sheet)


def _draw_letters(draw, letters, x, y, width, height):
    places = ((x + 4, y + height // 2, "lm"), (x + width - 4, y + height // 2, "rm"))
    places += ((x + width // 2, y + 3, "mt"), (x + width // 2, y + height - 3, "mb"))
    for letter, (at_x, at_y, anchor) in zip(letters, places, strict=True):
        draw.text((at_x, at_y), letter, _TEXT, _font(13), anchor, stroke_width=1, stroke_fill=_PAPER)


def _draw_bar(draw, length, pixels, x, y):
    draw.rectangle((x - 1, y - 2, x + round(pixels) + 1, y + 2), fill=_PAPER)
    draw.rectangle((x, y - 1, x + round(pixels), y + 1), fill=_TEXT)
    draw.text((x, y - 4), f"{length:g} mm", _TEXT, _font(13), "ls", stroke_width=1, stroke_fill=_PAPER)


def _flow(names, width):
    """Break legend entries into lines of at most ``width`` pixels; return indices per line."""
    lines, used = [], width + 1
    for k, name in enumerate(names):
        need = 44 + _font(15).getlength(name)
        if used + need > width:
            lines.append([])
            used = 0
        lines[-1].append(k)
        used += need
    return lines


@cache
def _font(size, bold=False):
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
