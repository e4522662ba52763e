"""Labels carried from the labelled slices to slices like them, before any training."""

import heapq
from contextlib import contextmanager

import cv2
import numpy as np

from cmems.errors import InputError
from cmems.labels import UNKNOWN
from cmems.registry import DESCRIPTIONS, PROPAGATIONS

_GRID = 256  # errors are counted in 256ths of a side
_FAR = 10.0  # what misses by more counts as this
_LOOK = 10.0  # an intensity that differs by 0.1 counts as much as a place that differs by a 256th of the side
_LOOK_DOUBT = 0.2
_FEW = 20  # pixels at the size of the flow: fewer are no organ
_RING = 9  # width of what is grown around the organs, pixels of that size
_BORDER = cv2.BORDER_REPLICATE


@PROPAGATIONS.register_module()
class FlowPropagation:
    """Labels are carried from slice to slice by optical flow, along the paths of least cost.

    A labelled slice hands its labels to its neighbours in the stack, and to the slices of other scans that look most
    like it at about its level; what they reach goes on from there (Dijkstra's algorithm). Flow is dense and computed
    both ways (DIS: Kroeger et al., ECCV 2016). A step costs ``hop`` or ``leap``, how far the way there and back misses
    a pixel, in 256ths of the side, and ten times the difference in intensity (of [0, 1], blurred) between it and where
    its label comes from, both averaged over the organs and four pixels around. The doubt of a pixel is how far the
    shares of the classes differ, as one less their cosine, between it and where the way there and back ends, and a
    fifth of that difference in intensity. Costs and doubts add up along a path.

    Nothing but the given labels and the images is read. Organs of fewer than 20 pixels at ``width`` are not followed.

    Args:
        slices (int): Most slices to label, besides those that have labels.
        others (int): Other scans that each slice hands its labels to; 0 keeps them within their own stack.
        unknown (float): Doubt from which on a pixel is unknown, 255.
        limit (float): Cost up to which a slice is labelled.
        hop (float): What a step to the next slice of the stack costs besides.
        leap (float): What a step to another scan costs besides.
        level (float): How far apart in their stacks, 0 to 1, slices of two scans may lie.
        description (dict): What slices of other scans are compared by, of ``DESCRIPTIONS``.
        width (int): Pixels of a side at which flow is computed.

    Raises:
        InputError: A number is not one of its kind.
    """

    def __init__(
        self,
        slices=32,
        others=4,
        unknown=0.05,
        limit=10.0,
        hop=0.3,
        leap=4.0,
        level=0.25,
        description=None,
        width=192,
    ):
        for name, value, least in (("slices", slices, 1), ("others", others, 0), ("width", width, 16)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"FlowPropagation: {name}: expected an integer of {least} or more, got {value!r}")
        for name, value in (("unknown", unknown), ("limit", limit), ("hop", hop), ("leap", leap), ("level", level)):
            if not isinstance(value, int | float) or not value >= 0:
                raise InputError(f"FlowPropagation: {name}: expected a number of 0 or more, got {value!r}")
        if unknown == 0:
            raise InputError("FlowPropagation: unknown: expected a number above 0; at 0 every pixel carried is unknown")
        self.slices, self.others, self.unknown, self.limit = slices, others, unknown, limit
        self.hop, self.leap, self.level, self.width = hop, leap, level, width
        self.describe = DESCRIPTIONS.optional(description, dict(type="SmallSlice", side=24))

    def __call__(self, images, stacks, labels):
        """Carry labels.

        Args:
            images (np.ndarray): ``(N, S, S)`` float, [0, 1]: the slices of all scans; may be a map.
            stacks (Sequence[range]): Rows of each scan.
            labels (dict[int, np.ndarray]): By row ``(S, S)`` uint8, 255 unknown.

        Returns:
            dict[int, np.ndarray]: By row, the cheapest first, ``(S, S)`` uint8, 255 unknown: the slices reached.
        """
        with _one_thread():
            return self._carry(_Slices(images, stacks, self), labels)

    def _carry(self, slices, labels):
        classes = 1 + max(int(label[label != UNKNOWN].max(initial=0)) for label in labels.values())
        shares, doubt, carried = {}, {}, {}
        for row, label in labels.items():
            shares[row] = np.stack([slices.resized((label == k).astype(np.float32)).clip(0, 1) for k in range(classes)])
            doubt[row] = slices.resized((label == UNKNOWN).astype(np.float32)).clip(0, 1)
        cost, waiting = dict.fromkeys(labels, 0.0), [(0.0, row, None, None, None) for row in sorted(labels)]
        done = set()
        while waiting and len(carried) < self.slices:
            spent, row, source, sampling, added = heapq.heappop(waiting)
            if row in done:
                continue
            done.add(row)
            if source is not None:
                shares[row] = slices.warp(shares[source], sampling)
                doubt[row] = slices.warp(doubt[source][None], sampling)[0] + added
                carried[row] = slices.label(shares[row], doubt[row], self.unknown)
            for other in slices.near(row):
                if other in done or other in labels:
                    continue
                sampling, astray, unlike = slices.match(row, other)
                there = slices.warp(shares[row], sampling)
                missed = np.minimum(np.linalg.norm(astray, axis=2) * _GRID / self.width, _FAR) + _LOOK * unlike
                step = self.hop if slices.beside(row, other) else self.leap
                total = spent + step + _mean_near_organs(missed, there)
                if total <= self.limit and total < cost.get(other, np.inf):
                    cost[other] = total
                    back = slices.warp(there, slices.pixels + astray)
                    added = 1 - _likeness(there, back) + _LOOK_DOUBT * unlike
                    heapq.heappush(waiting, (total, other, row, sampling, added))
        return carried


class _Slices:
    """The slices at the size at which flow is computed, and who hands labels to whom."""

    def __init__(self, images, stacks, settings):
        self.images, self.stacks, self.settings = images, stacks, settings
        self.side, self.width = images.shape[1], settings.width
        self.stack_of, self.place = np.empty(len(images), int), np.empty(len(images))
        for k, rows in enumerate(stacks):
            self.stack_of[rows.start : rows.stop] = k
            self.place[rows.start : rows.stop] = (np.arange(len(rows)) + 0.5) / len(rows)
        self.flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.pixels = np.stack(np.meshgrid(*[np.arange(self.width, dtype=np.float32)] * 2), -1)
        self.pictures, self.described = {}, None

    def resized(self, image, width=None):
        width = width or self.width
        method = cv2.INTER_CUBIC if width > len(image) else cv2.INTER_AREA
        return cv2.resize(image, (width, width), interpolation=method)

    def picture(self, row):
        """Return the slice as uint8, which the flow takes, and blurred, which looks are compared by."""
        if row not in self.pictures:
            picture = self.resized(np.asarray(self.images[row], dtype=np.float32))
            picture = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
            self.pictures[row] = picture, cv2.GaussianBlur(picture, (0, 0), 2).astype(np.float32) / 255
        return self.pictures[row]

    def near(self, row):
        """Return the rows that a slice hands its labels to."""
        rows = self.stacks[self.stack_of[row]]
        beside = [r for r in (row - 1, row + 1) if r in rows]
        return beside + self._alike(row) if self.settings.others and len(self.stacks) > 1 else beside

    def beside(self, row, other):
        """Return whether two rows are of one stack."""
        return self.stack_of[row] == self.stack_of[other]

    def _alike(self, row):
        if self.described is None:
            for r in self.stacks:
                stack = np.asarray(self.images[r.start : r.stop], dtype=np.float32)
                found = self.settings.describe(stack, (1.0, 1.0, 1.0))
                if self.described is None:
                    self.described = np.empty((len(self.images), found.shape[1]), found.dtype)
                self.described[r.start : r.stop] = found
        distance = np.linalg.norm(self.described - self.described[row], axis=1)
        distance[self.stack_of == self.stack_of[row]] = np.inf
        distance[np.abs(self.place - self.place[row]) > self.settings.level] = np.inf
        best, seen = [], set()
        for r in np.argsort(distance, kind="stable"):
            if not np.isfinite(distance[r]) or len(best) == self.settings.others:
                break
            if self.stack_of[r] not in seen:
                seen.add(self.stack_of[r])
                best.append(int(r))
        return best

    def match(self, row, other):
        """Find where each pixel of ``other`` comes from in ``row``.

        Returns:
            tuple[np.ndarray, np.ndarray, np.ndarray]: Its place ``(W, W, 2)``, x and y; from where it is to where the
            way there and back ends, ``(W, W, 2)``; how far the two intensities differ, ``(W, W)``; all float32.
        """
        (source, look), (target, other_look) = self.picture(row), self.picture(other)
        there, back = self.flow.calc(target, source, None), self.flow.calc(source, target, None)
        sampling = self.pixels + there
        astray = there + cv2.remap(back, sampling, None, cv2.INTER_LINEAR, borderMode=_BORDER)
        return sampling, astray, np.abs(other_look - self.warp(look[None], sampling)[0])

    def warp(self, planes, sampling):
        """Sample ``(C, W, W)`` float32 planes."""
        return np.stack([cv2.remap(p, sampling, None, cv2.INTER_LINEAR, borderMode=_BORDER) for p in planes])

    def label(self, shares, doubt, unknown):
        """Return labels ``(S, S)`` uint8 on the slices' own grid, 255 where the doubt is ``unknown`` or more."""
        label = np.stack([self.resized(share, self.side) for share in shares]).argmax(0).astype(np.uint8)
        return np.where(self.resized(doubt, self.side) < unknown, label, np.uint8(UNKNOWN))


def _mean_near_organs(error, shares):
    """Return the mean of ``error`` within the organs and four pixels around them; infinite where they are gone."""
    organs = shares[1:].sum(0)
    if (organs > 0.5).sum() < _FEW:
        return np.inf
    return float(np.average(error, weights=cv2.dilate(organs, np.ones((_RING, _RING), np.uint8)).clip(0, 1)))


def _likeness(a, b):
    """Return the cosine ``(W, W)`` of two ``(C, W, W)`` shares; 0 where either has none."""
    return (a * b).sum(0) / np.maximum(np.sqrt((a**2).sum(0) * (b**2).sum(0)), 1e-6)


@contextmanager
def _one_thread():
    """DIS divides the picture among its threads, and what it finds depends on how many these are."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
