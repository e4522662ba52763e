"""One colour per class, the same in every picture, told apart under the common colour blindnesses."""

import colorsys

from cmems.errors import printable

# After Okabe & Ito, whose colours are for figures on white. On grey images their green and purple, which some eyes see
# as greys, fade: here the one is lighter, the other darker, and the blue is lighter than a dark tissue.
_SAFE = ("#56B4E9", "#F0E442", "#D55E00", "#10E6A6", "#B030A8", "#5A60EA", "#E69F00", "#FFFFFF")


def class_colors(count):
    """Return the colours of classes 1 … ``count`` as RGB tuples of 0–255; from the ninth on, spread hues.

    Args:
        count (int): Foreground classes.
    """
    colors = [tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for code in _SAFE[:count]]
    for k in range(len(_SAFE), count):
        rgb = colorsys.hsv_to_rgb(k * 0.381966 % 1, 0.45 + 0.4 * (k % 2), 0.95)
        colors.append(tuple(round(255 * part) for part in rgb))
    return colors


def label_tables(classes):
    """Return the files by which viewers show labels in these colours, under their classes' names.

    Args:
        classes (sequence[str]): Foreground classes; label k is the k-th.

    Returns:
        dict[str, str]: Text by file name: ITK-SNAP's label descriptions and 3D Slicer's colour table.
    """
    snap, slicer = (
        ["# ITK-SnAP Label Description File", "# IDX -R- -G- -B- -A- VIS MSH LABEL"],
        ["# 3D Slicer colour table"],
    )
    rows = [("background", (0, 0, 0)), *zip(classes, class_colors(len(classes)), strict=True)]
    for k, (name, rgb) in enumerate(rows):
        name, shown = printable(name), int(k > 0)
        snap.append(
            "{:5d} {:3d} {:3d} {:3d} {} {} {} ".format(k, *rgb, *[shown] * 3) + '"{}"'.format(name.replace('"', "'"))
        )
        slicer.append(" ".join([str(k), "_".join(name.split()), *map(str, rgb), str(255 * shown)]))
    return {"labels_itksnap.txt": "\n".join(snap) + "\n", "labels_slicer.ctbl": "\n".join(slicer) + "\n"}


def hex_color(rgb):
    """Return an RGB tuple of 0-255 as ``#RRGGBB``."""
    return "#{:02X}{:02X}{:02X}".format(*rgb)
