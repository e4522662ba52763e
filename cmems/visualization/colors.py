"""One colour per class, the same in every picture: told apart under the common colour blindnesses (Okabe & Ito)."""

import colorsys

# On grey images: light and dark alternate, so that neighbouring classes also differ in lightness.
_SAFE = ("#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#FFFFFF")


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
