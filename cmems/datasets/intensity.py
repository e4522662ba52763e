"""From voxels to grey levels in [0, 1]: how each modality is scaled, and what is looked at before and after."""

import numpy as np

from cmems.datasets.prepared import FLAT
from cmems.errors import InputError

CT_WINDOW = (-125.0, 275.0)
MR_PERCENTILE = 99.5
# Scans have hundreds of values, and 80 % of their voxels span a quarter of [0, 1] and more.
_MASK, _NARROW = 16, 0.1
_FILL = "; --fill-nan of cmems prepare nifti reads NaN as the smallest value, and so does a model of data prepared so"
_SCALED = (
    "; CT that is scaled already is for --modality mr of cmems prepare nifti and pick, and a model of data so made"
)
INTENSITY = {
    "mr": f"per volume: clipped to [minimum, {MR_PERCENTILE}th percentile], scaled to [0, 1]",
    "ct": "clipped to [-125, 275] HU, scaled to [0, 1]",
    "unit": "as stored, clipped to [0, 1]",
}


def image_problems(path, image, modality):
    """Return what keeps a :class:`Volume` from being scaled, one line per problem, naming the file it came from."""
    voxels = image.voxels
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        nan, all_odd = int(np.isnan(voxels).sum()), int((~np.isfinite(voxels)).sum())
        hint = _FILL if nan == all_odd < voxels.size else ""
        return [f"{path}: expected finite voxels, got {all_odd} NaN or infinite{hint}"]
    low, high = voxels.min(), voxels.max()
    if low == high:
        return [f"{path}: expected an image, got the constant {low:g}"]
    span = float(high) - float(low)
    if not np.isfinite(span) or span <= np.spacing(max(abs(float(low)), abs(float(high)))):
        return [f"{path}: expected voxels that a float64 can tell apart, got {low} to {high}"]
    if modality == "unit" and not -1e-3 <= low <= high <= 1 + 1e-3:
        return [
            f"{path}: expected voxels in [0, 1], as this layout and its networks have them, got {low:g} to {high:g}"
        ]
    if modality == "ct" and span <= 2:
        return [f"{path}: expected HU, got {low:g} to {high:g}{_SCALED}"]
    return []


def scale_intensity(voxels, modality):
    """Scale a volume to [0, 1].

    Args:
        voxels (np.ndarray): ``(D, H, W)``, finite; HU for CT.
        modality (str): ``mr``, ``ct``, or ``unit`` for voxels that are in [0, 1] already.

    Returns:
        tuple[np.ndarray, tuple[float, float]]: ``(D, H, W)`` float32 and the raw values' range.
    """
    voxels = np.ascontiguousarray(voxels, dtype=_precision(voxels))
    bounds = (float(voxels.min()), float(voxels.max()))
    low, high = {"ct": CT_WINDOW, "unit": (0.0, 1.0)}.get(modality, bounds)
    if modality == "mr":
        # A volume almost all of one value has its percentile there; its true maximum then sets the scale.
        percentile = float(np.percentile(voxels, MR_PERCENTILE))
        high = percentile if percentile > low else high
        # With next to nothing in the lower half of the range, its minimum is a fault of a few voxels, not background.
        if np.count_nonzero(voxels < low / 2 + high / 2) <= voxels.size * (100 - MR_PERCENTILE) / 100:
            floor = float(np.percentile(voxels, 100 - MR_PERCENTILE))
            low = floor if floor < high else low
    return np.clip((voxels - low) / (high - low), 0, 1).astype(np.float32, copy=False), bounds


def _precision(voxels):
    """Return float32, or float64 for values that float32 cannot tell apart or whose range is beyond it."""
    low, high = float(voxels.min()), float(voxels.max())
    large = max(abs(low), abs(high))
    coarse = large > 1e30 or high - low < 1e-30 or large > 1000 * (high - low)
    return np.float64 if coarse else np.float32


def _bulk(counts):
    """Return the 10th and the 90th percentile of what is not of the commonest value, as background is.

    Args:
        counts (np.ndarray): ``(65536,)``, of the values by their bits as float16: of numbers that are not negative
            these have their order.
    """
    counts = counts.copy()
    counts[counts.argmax()] = 0
    ranks = np.cumsum(counts)
    found = np.searchsorted(ranks, [0.1 * ranks[-1], 0.9 * ranks[-1]]).astype(np.uint16)
    return found.view(np.float16).tolist()


def scaling_notes(voxels, scaled, modality):
    """Return what a user should know of what scaling left of a volume, as pairs of a sentence and its details.

    Args:
        voxels (np.ndarray): ``(D, H, W)``, as read.
        scaled (np.ndarray): ``(D, H, W)`` float32 in [0, 1].
        modality (str): As for :func:`scale_intensity`.
    """
    notes, low, high = [], float(voxels.min()), float(voxels.max())
    counts = sum(np.bincount(z.astype(np.float16).ravel().view(np.uint16), minlength=1 << 16) for z in scaled)
    levels = int((counts > 0).sum())
    if levels < 64:
        had = len(np.unique(voxels))
        if had > 2 * levels:
            notes.append(("scaling leaves few grey levels", f"{levels} of {had}, from voxels of {low:g} to {high:g}"))
        elif had < _MASK:
            notes.append(("so few different values are a mask's rather than a scan's", f"{had}, {low:g} to {high:g}"))
    if counts.max() > 0.99 * scaled.size:
        notes.append(("more than 99 % of the voxels have one value", f"voxels of {low:g} to {high:g}"))
    first, last = _bulk(counts)
    if last - first < _NARROW and levels >= _MASK:
        detail = f"{first:.2g} to {last:.2g}, from voxels of {low:g} to {high:g}"
        notes.append(("scaling leaves most of the scan in a small part of [0, 1]", detail))
    flat = [z for z, plane in enumerate(scaled) if plane.min() == plane.max()]
    if flat:
        notes.append((FLAT, f"{len(flat)} of {len(scaled)}, the first {flat[0]}"))
    if modality == "ct" and low >= 0:
        notes.append(
            ("CT without a voxel below 0 HU, where air is -1000; is it scaled already?", f"{low:g} to {high:g}")
        )
    return notes


def modality_of(intensity, where):
    """Return the modality by which voxels were scaled.

    Args:
        intensity (str): As a manifest says it.
        where (str | Path): For the message.

    Raises:
        InputError: It is another scaling.
    """
    modality = next((name for name, text in INTENSITY.items() if text == intensity), None)
    if modality is None:
        raise InputError(f"{where}: intensity: expected one of {list(INTENSITY.values())}, got {intensity!r}")
    return modality
