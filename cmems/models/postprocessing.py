"""Clean-up of a volume's labels, for what is known of anatomy: one heart, one liver, no specks, no holes.

A component changes labels on the scan's own grid, or, by ``soften``, the probabilities of neighbouring slices before.
``model.prediction.clean`` lists them; validation, testing and predicting then show the result as ``cleaned``, beside
the networks as they are.
"""

import math

import numpy as np
import torch
from scipy import ndimage

from cmems.errors import InputError
from cmems.labels import label_list
from cmems.registry import POST_PROCESSORS


class PostProcessor:
    """A step of the clean-up; a subclass overrides what it changes.

    Attributes:
        of_labels (tuple[str]): Which of its attributes are a label, or labels, or None.
        one_label (tuple[str]): Which of these are never several.
    """

    of_labels, one_label = ("classes",), ()

    def soften(self, probabilities):
        """Change ``(D, K, S, S)`` float32 probabilities of a volume's slices, on the networks' grid."""
        return probabilities

    def __call__(self, labels, spacing):
        """Return the ``(D, H, W)`` uint8 labels changed; ``spacing`` is (slice, row, column) in mm."""
        return labels


@POST_PROCESSORS.register_module()
class KeepLargest(PostProcessor):
    """Keep the largest connected part in 3-D; what is smaller becomes background.

    Args:
        of (str): ``"foreground"``: of all classes together, where they touch each other (a heart); ``"class"``: of
            each class.
        classes (sequence[int] | None): Labels to look at, never ``beside``; the others stay. Default: all.
        beside (int | None): A label that the wanted part lies along: the largest part is then the one with most voxels
            times voxels next to that label, wherever some touch it. A right ventricle lies along the myocardium; a
            liver taken for one may be larger, and touches its tip.
        within (float): How far from that label a voxel of the same slice is next to it, in mm, beside those that touch
            it: networks leave a gap where they are not sure of a border.
        neck (float): Where a part is thinner than this, in mm, between two of its thicker ones, it is taken for two,
            each voxel going with the nearer: a heart taken for liver hangs on it. 0: what touches is one.
        share (float): What is at least this share of the largest, above 0 to 1, stays too: an aorta that is missed
            in a slice is in two parts.
    """

    of_labels, one_label = ("classes", "beside"), ("beside",)

    def __init__(self, of="class", classes=None, beside=None, within=0.0, neck=0.0, share=1.0):
        if of not in ("foreground", "class"):
            raise InputError(f"KeepLargest: of: expected 'foreground' or 'class', got {of!r}")
        self.of, self.classes, self.beside = of, _classes(self, classes), beside
        if beside is not None and beside in (self.classes or ()):
            raise InputError(f"KeepLargest: classes: expected labels other than that of beside, got {classes!r}")
        for name, mm in (("within", within), ("neck", neck)):
            if isinstance(mm, bool) or not isinstance(mm, (int, float)) or not 0 <= mm < math.inf:
                raise InputError(f"KeepLargest: {name}: expected a number of 0 or more, in mm, got {mm!r}")
        if within and beside is None:
            raise InputError("KeepLargest: within: expected a label of beside too, which it is the distance from")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise InputError(f"KeepLargest: share: expected a number above 0, to 1, got {share!r}")
        self.within, self.neck, self.share = within, neck, share

    def __call__(self, labels, spacing):
        """Keep the part with most voxels; face neighbours are connected."""
        labels = labels.copy()
        near = None if self.beside is None else self._near(labels == self.beside, spacing)
        wanted = [k for k in _present(labels, self.classes) if k != self.beside]
        boxes = ndimage.find_objects(labels)
        for group in [wanted] if self.of == "foreground" and wanted else [[k] for k in wanted]:
            # With a voxel about it, but at the scan's border.
            box = tuple(
                slice(max(0, min(s.start for s in each) - 1), max(s.stop for s in each) + 1)
                for each in zip(*(boxes[k - 1] for k in group), strict=True)
            )
            here = labels[box]
            parts, count = self._parts(np.isin(here, group), spacing)
            if count > 1:
                sizes = np.bincount(parts.ravel())
                sizes[0] = 0
                touching = sizes if near is None else sizes * np.bincount(parts[near[box]], minlength=count + 1)
                weights = touching if touching.any() else sizes
                gone = weights < self.share * weights.max()
                if self.share == 1:  # of equals the first
                    gone[:] = np.arange(count + 1) != weights.argmax()
                here[(parts > 0) & gone[parts]] = 0
        return labels

    def _parts(self, mask, spacing):
        """Number the connected parts of a mask from 1, those that a neck joins apart; return (numbers, their count)."""
        parts, count = ndimage.label(mask)
        for k, box in enumerate(ndimage.find_objects(parts) if self.neck else (), 1):
            part = parts[box] == k
            # Nothing is known beyond the scan: organs that its border cuts are no thinner there.
            around = [(int(s.start > 0), int(s.stop < n)) for s, n in zip(box, mask.shape, strict=True)]
            whole = np.pad(part, around)
            if whole.all():
                continue
            depth = ndimage.distance_transform_edt(whole, spacing)
            cores, found = ndimage.label(depth > self.neck / 2)
            if found > 1:
                nearest = ndimage.distance_transform_edt(cores == 0, spacing, False, True)
                inside = tuple(slice(a, a + n) for (a, _), n in zip(around, part.shape, strict=True))
                number = np.where(part, cores[tuple(nearest)][inside], 0)
                parts[box][number > 1] = count + number[number > 1] - 1
                count += found - 1
        return parts, count

    def _near(self, mask, spacing):
        near = ndimage.binary_dilation(mask)
        for z in np.flatnonzero(mask.any((1, 2))) if self.within else ():
            near[z] |= ndimage.distance_transform_edt(~mask[z], spacing[1:]) <= self.within
        return near


@POST_PROCESSORS.register_module()
class CutAtBase(PostProcessor):
    """End classes at the base of the heart, where the wall of the other ventricle opens.

    Short-axis slices at the valves cut that wall in part: what lies beside it there is an atrium or an outflow tract,
    which in systole, the base drawn towards the apex, fills slices that are annotated without a right ventricle. The
    base is the end of the wall's slices whose third holds more labelled pixels. Beyond the wall, and in its last
    slices there as long as its area is below ``share`` of the median of its middle third, the classes are background.

    Args:
        classes (sequence[int]): Labels that end there.
        wall (int): Label of the wall.
        share (float): Share of the wall's middle area below which it is open.
        slices (int): Most slices of the wall that may be open.
    """

    of_labels, one_label = ("classes", "wall"), ("wall",)

    def __init__(self, classes, wall, share=0.75, slices=3):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise InputError(f"CutAtBase: share: expected 0 to 1, got {share!r}")
        if not isinstance(slices, int) or slices < 0:
            raise InputError(f"CutAtBase: slices: expected an integer of 0 or more, got {slices!r}")
        self.classes = label_list(self, "classes", classes)
        self.wall, self.share, self.slices = wall, share, slices

    def __call__(self, labels, spacing):
        """Cut; where the wall is in fewer than four slices, nothing changes."""
        area = (labels == self.wall).sum((1, 2))
        held = np.flatnonzero(area)
        if len(held) < 4:
            return labels
        third = len(held) // 3
        organs = (labels > 0).sum((1, 2))
        up = organs[held[:third]].sum() >= organs[held[-third:]].sum()
        whole = self.share * np.median(area[held[third : len(held) - third]])
        from_base = held if up else held[::-1]
        first = next((k for k, z in enumerate(from_base[: self.slices]) if area[z] >= whole), self.slices)
        base = np.zeros(len(labels), dtype=bool)
        base[slice(0, from_base[first]) if up else slice(from_base[first] + 1, None)] = True
        return np.where(base[:, None, None] & np.isin(labels, self.classes), np.uint8(0), labels)


@POST_PROCESSORS.register_module()
class RemoveSmall(PostProcessor):
    """Make every connected part of a class that is smaller than a volume background.

    Args:
        mm3 (float): The least volume that stays, in cubic millimetres.
        classes (sequence[int] | None): Labels to look at. Default: all.
    """

    def __init__(self, mm3, classes=None):
        if not isinstance(mm3, (int, float)) or not 0 <= mm3 < math.inf:
            raise InputError(f"RemoveSmall: mm3: expected a number of 0 or more, got {mm3!r}")
        self.mm3, self.classes = mm3, _classes(self, classes)

    def __call__(self, labels, spacing):
        """Remove by class; face neighbours are connected."""
        labels = labels.copy()
        for k in _present(labels, self.classes):
            parts, _ = ndimage.label(labels == k)
            small = np.bincount(parts.ravel()) * math.prod(spacing) < self.mm3 * (1 - 1e-9)  # spacings are rounded
            small[0] = False
            labels[small[parts]] = 0
        return labels


@POST_PROCESSORS.register_module()
class FillHoles(PostProcessor):
    """Give background that a class encloses within a slice to that class; other classes inside it stay.

    Of classes that enclose each other, a cavity in its wall, the innermost takes it.

    Args:
        classes (sequence[int] | None): Labels to look at. Default: all.
    """

    def __init__(self, classes=None):
        self.classes = _classes(self, classes)

    def __call__(self, labels, spacing):
        """Fill slice by slice."""
        filled = labels.copy()
        for plane, found in zip(labels, filled, strict=True):
            least = np.full(plane.shape, np.inf)
            for k in _present(plane, self.classes):
                parts, _ = ndimage.label(ndimage.binary_fill_holes(plane == k))
                size = np.bincount(parts.ravel())[parts]
                inner = (parts > 0) & (plane == 0) & (size < least)
                found[inner], least[inner] = k, size[inner]
        return filled


@POST_PROCESSORS.register_module()
class SmoothSlices(PostProcessor):
    """Average each slice's probabilities with its neighbours', before labels are taken.

    Args:
        neighbor (float): Weight of each neighbour against 1 for the slice itself; 0.5 is the filter 1-2-1. The first
            and the last slice have one neighbour.
    """

    def __init__(self, neighbor=0.5):
        if isinstance(neighbor, bool) or not isinstance(neighbor, (int, float)) or not 0 <= neighbor < math.inf:
            raise InputError(f"SmoothSlices: neighbor: expected a number of 0 or more, got {neighbor!r}")
        self.neighbor = neighbor

    def soften(self, probabilities):
        """Average along the slices."""
        total, weight = probabilities.clone(), torch.ones(len(probabilities), 1, 1, 1, device=probabilities.device)
        total[1:] += self.neighbor * probabilities[:-1]
        total[:-1] += self.neighbor * probabilities[1:]
        weight[1:] += self.neighbor
        weight[:-1] += self.neighbor
        return total / weight


def _classes(part, classes):
    return classes if classes is None else label_list(part, "classes", classes)


def _present(labels, classes):
    found = [int(k) for k in np.unique(labels) if k]
    return found if classes is None else [k for k in found if k in classes]
