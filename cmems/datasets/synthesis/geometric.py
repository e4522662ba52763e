"""G, the geometric part of Ω: where each pixel of a synthetic image is sampled in the exemplar.

A part maps the ``(n, H, W, 2)`` sampling positions of a batch, (x, y) in [-1, 1]; a list of parts acts in its order.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from cmems import geometry
from cmems.errors import InputError
from cmems.labels import label_list
from cmems.models.perturbations.base import Perturbation, check_draws
from cmems.registry import SYNTHESIZERS


@SYNTHESIZERS.register_module()
class RandomAffine(Perturbation):
    """Rotation, scale, shift, mirroring and a smooth elastic deformation; the first part of any G.

    Args:
        degrees (float): Rotation, uniform in ± this many degrees.
        scale (tuple[float, float]): Range of the enlargement, log-uniform.
        shift (float): Shift along each axis, uniform in ± this share of the image's side.
        flip (float): Probability of mirroring left to right.
        elastic (float): Standard deviation of the deformation at its control points, as a share of the image's side.
        control_points (int): Control points along each side; between them the deformation is bicubic. Fewer points
            reach further: with 9 an organ's border waves, with 5 its shape changes.
    """

    role = "first"

    def __init__(self, degrees=180.0, scale=(0.7, 1.4), shift=0.15, flip=0.5, elastic=0.0, control_points=9):
        self.degrees, self.scale, self.shift, self.flip = degrees, scale, shift, flip
        self.elastic, self.control_points = elastic, control_points
        sizes = ["degrees", "shift", "elastic"]
        check_draws(self, factors=["scale"], probabilities=["flip"], sizes=sizes, points=["control_points"])

    def draw(self, stream, n):
        """Draw ``angle`` ``(n,)`` radians, ``scale`` ``(n,)``, ``shift`` ``(n, 2)``, ``flip`` ``(n,)`` bool, and
        ``displacement`` ``(n, 2, C, C)`` (x, y) at the control points, the side of the image being 2.
        """
        parameters = dict(
            angle=geometry.degrees(stream, n, self.degrees),
            scale=stream.log_uniform(n, *self.scale),
            shift=stream.uniform((n, 2), -2 * self.shift, 2 * self.shift),
            flip=stream.bernoulli(n, self.flip),
            displacement=None,
        )
        if self.elastic:
            # A uniform draw of this width has the wanted standard deviation, and no far outlier that would fold space.
            width = 2 * self.elastic * math.sqrt(3)
            size = (n, 2, self.control_points, self.control_points)
            parameters["displacement"] = stream.uniform(size, -width, width)
        return parameters

    def grid(self, parameters, size, labels=None, which=None, turns=None, fit=None):
        """Return the ``(n, H, W, 2)`` sampling grid of drawn parameters.

        Args:
            parameters (dict): From :meth:`draw`.
            size (tuple[int, int]): H, W.
            labels (Tensor | None): ``(E, H, W)`` of the exemplars: about its organs' centroid each picture turns and
                grows. Default: about the image's centre.
            which (Tensor | None): ``(n,)`` int64, the exemplar of each sample.
            turns (Tensor | None): ``(E,)`` radians: a further rotation of each exemplar, before what is drawn.
            fit (Fit | None): What lays the exemplars elsewhere; the centroid is where it brings theirs.
        """
        center = None if labels is None else centroid(is_organ(labels))[which]
        if fit is not None and center is not None:
            center = fit.inverse(center)
        displacement = parameters["displacement"]
        affine = {k: v for k, v in parameters.items() if k != "displacement"}
        if turns is not None:
            own = turns[which]
            affine["angle"] = affine["angle"] + torch.where(affine["flip"], -own, own)  # mirrored before it turns
        return geometry.grid(geometry.affine_matrices(**affine, center=center), size, displacement)


@SYNTHESIZERS.register_module()
class RadialShape(Perturbation):
    """Radial change of shape about the centroid of one class, drawn per sample.

    In the exemplar, about the centroid c of the class, with ρ = |x - c|: what lies at ρ' = R (ρ/R)^g appears at ρ < R;
    beyond R nothing moves. R is ``reach`` times the class's mean distance from c, times a draw; g is log-uniform.
    g < 1 pulls what is inside R inwards: about the left ventricle, a systolic heart (small cavity, thick wall)
    of a diastolic one. g > 1 widens it.

    Args:
        exponent (tuple[float, float]): Range of g, log-uniform. With R at the outer wall, 0.25 leaves of a cavity of
            0.7 R a quarter.
        reach (float): Mean of R over the class's mean distance from its centroid.
        spread (tuple[float, float]): Range of the factor drawn for R.
        probability (float): Share of the samples whose shape changes.
        classes (sequence[int]): Labels to draw from; those that an exemplar lacks are passed over.
    """

    role = "further"
    of_labels = ("classes",)

    def __init__(self, classes, exponent=(0.25, 2.0), reach=1.3, spread=(0.9, 1.8), probability=0.8):
        self.exponent, self.reach, self.spread, self.probability = exponent, reach, spread, probability
        self.classes = label_list(self, "classes", classes)
        check_draws(self, factors=["exponent", "spread"], probabilities=["probability"], positives=["reach"])

    def draw(self, stream, n):
        """Draw ``choice`` ``(n,)`` in [0, 1), which class; ``factor`` of R and ``exponent`` g, ``(n,)`` each."""
        exponent = stream.log_uniform(n, *self.exponent)
        kept = ~stream.bernoulli(n, self.probability)
        return dict(
            choice=stream.uniform(n),
            factor=stream.uniform(n, *self.spread),
            exponent=exponent.masked_fill(kept, 1),
        )

    def bend(self, sampling, parameters, labels, which):
        """Move ``(n, H, W, 2)`` sampling positions in the frames of the exemplars, ``(E, H, W)`` labels."""
        masks = torch.stack([labels == k for k in self.classes], 1)
        # The place of each drawn class among those that the exemplar holds.
        there = masks.flatten(2).any(2)[which]
        rank = (parameters["choice"] * there.sum(1)).long() + 1
        chosen = masks[which, ((there.cumsum(1) == rank[:, None]) & there).int().argmax(1)]
        center = centroid(chosen)
        radius = mean_distance(chosen, center)
        center, reach = center[:, None, None], (self.reach * parameters["factor"] * radius)[:, None, None]
        offset = sampling - center
        share = (offset.square().sum(-1).sqrt() / reach).clamp(min=1e-4)
        # ρ'/ρ = (ρ/R)^(g - 1) inside R, 1 beyond.
        stretch = torch.where(share < 1, share ** (parameters["exponent"][:, None, None] - 1), 1)
        return center + offset * stretch.unsqueeze(-1)


@SYNTHESIZERS.register_module()
class WallShape(Perturbation):
    """Another cavity in another wall, drawn per sample: a contracted, a thick-walled or a dilated heart of any.

    In the exemplar, seen from the centroid of both, the wall lies between the radii a(θ) and b(θ). In the sample it
    lies between a' and b': b' = s b, and a'/b' is a/b, scaled to a mean of the drawn ratio. Cavity and wall are
    stretched linearly along each ray, so that either keeps its own outline, however thin the exemplar's wall is;
    outside, the displacement b' - b decays to nothing at ``reach`` times the larger of the two.

    Outlines run where the grey of a cavity has fallen to the wall's, along the outer edge of a half-dark rim, which is
    of much the same width in large and small cavities. ``rim`` keeps that width; stretched with the rest, it would be
    thin in a small cavity, and networks would draw the outline of a real one within it.

    Args:
        cavity (int): Label of what lies inside.
        wall (int): Label of what lies around it.
        ratio (tuple[float, float]): Range of the mean of a'/b'; the cavity's share of the area is uniform, so that
            thick walls, small ratios, are the fewer, as they are among hearts.
        size (tuple[float, float]): Range of s, log-uniform.
        reach (float): How far what lies outside moves along, more than 1.
        probability (float): Share of the samples whose shape changes; those of an exemplar that lacks either stay.
        rim (float): Width of the cavity's rim that is moved and not stretched, as a share of the image's side; at most
            three fifths of a and a'.
    """

    role = "further"
    of_labels = one_label = ("cavity", "wall")

    angles, steps = 96, 96  # of the polar grid on which a and b are measured

    def __init__(self, cavity, wall, ratio=(0.15, 0.88), size=(0.8, 1.2), reach=1.7, probability=0.8, rim=0.0):
        if wall == cavity:
            raise InputError(f"WallShape: wall: expected another label than the cavity's, got {wall!r}")
        self.cavity, self.wall, self.rim = cavity, wall, rim
        self.ratio, self.size, self.reach, self.probability = ratio, size, reach, probability
        check_draws(self, shares=["ratio"], factors=["size"], probabilities=["probability"], sizes=["rim"])
        check_draws(self, positives=["reach"])
        if reach <= 1:
            raise InputError(f"WallShape: reach: expected a number of more than 1, got {reach!r}")

    def draw(self, stream, n):
        """Draw ``ratio`` and ``size`` ``(n,)``, and ``changed`` ``(n,)`` bool."""
        return dict(
            ratio=stream.uniform(n, self.ratio[0] ** 2, self.ratio[1] ** 2).sqrt(),
            size=stream.log_uniform(n, *self.size),
            changed=stream.bernoulli(n, self.probability),
        )

    def radii(self, labels):
        """Measure ``(E, H, W)`` labels: centres ``(E, 2)``, a and b by angle ``(E, angles)``, the side being 2.

        A radius is what lies along the ray: where an organ is no star seen from there, it is its length on the ray.
        """
        cavity = labels == self.cavity
        whole = cavity | (labels == self.wall)
        center = centroid(whole)
        angle = torch.arange(self.angles, device=labels.device) * (2 * math.pi / self.angles)
        far = (torch.arange(self.steps, device=labels.device) + 0.5) / self.steps
        rays = torch.stack([angle.cos(), angle.sin()], 1)[:, None] * far[:, None]
        soft = geometry.soften(torch.stack([cavity, whole], 1).float())
        length = geometry.warp_images(soft, center[:, None, None] + rays).mean(-1)
        near = torch.arange(-4, 5, device=labels.device)
        kernel = torch.exp(-0.5 * (near / 1.5).square())
        padded = torch.cat([length[..., -4:], length, length[..., :4]], -1).flatten(0, 1).unsqueeze(1)
        smooth = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).view_as(length)
        return center, smooth[:, 0], smooth[:, 1]

    def bend(self, sampling, parameters, labels, which):
        """Move ``(n, H, W, 2)`` sampling positions in the frames of the exemplars, ``(E, H, W)`` labels."""
        center, inner, outer = (each[which] for each in self.radii(labels))
        center, outer = center[:, None, None], outer.clamp(min=1e-3)
        share = (inner / outer).clamp(0.02, 0.98)
        wanted = (share * (parameters["ratio"] / share.mean(1))[:, None]).clamp(0.05, 0.95)
        new_outer = outer * parameters["size"][:, None]
        offset = sampling - center
        rho = offset.square().sum(-1).sqrt().clamp(min=1e-6)
        place = torch.atan2(offset[..., 1], offset[..., 0]) * (self.angles / (2 * math.pi)) % self.angles
        low = place.long()

        def at(table):
            first, second = (table.gather(1, (k % self.angles).flatten(1)).view_as(rho) for k in (low, low + 1))
            return torch.lerp(first, second, place - low)

        a, b, new_a, new_b = (at(table) for table in (inner, outer, new_outer * wanted, new_outer))
        end = self.reach * torch.maximum(b, new_b)
        in_wall = a + (rho - new_a) * (b - a) / (new_b - new_a)
        outside = rho + (b - new_b) * ((end - rho) / (end - new_b)).clamp(0, 1)
        rim = (0.6 * torch.minimum(a, new_a)).clamp(max=2 * self.rim)
        in_cavity = torch.where(rho < new_a - rim, rho * (a - rim) / (new_a - rim), rho + a - new_a)
        source = torch.where(rho < new_a, in_cavity, torch.where(rho < new_b, in_wall, outside))
        there = torch.stack([(labels == k).flatten(1).any(1) for k in (self.cavity, self.wall)]).all(0)
        changed = (parameters["changed"] & there[which])[:, None, None, None]
        return torch.where(changed, center + offset * (source / rho).unsqueeze(-1), sampling)


@SYNTHESIZERS.register_module()
class OrganJitter(Perturbation):
    """Each organ turned, grown and shifted by itself in the exemplar, about its own centroid; then as all others.

    One slice cuts organs where it does, and shows some of them small; another patient's neighbours lie otherwise.

    Args:
        classes (sequence[int]): Labels of the organs, in the order in which they are laid down: where two meet, the
            later one is on top; what is not among them is not pasted.
        degrees (float): Rotation, uniform in ± this many degrees.
        scale (tuple[float, float]): Range of the enlargement, log-uniform.
        shift (float): Shift along each axis, uniform in ± this share of the image's side.
    """

    role = "apart"
    of_labels = ("classes",)

    def __init__(self, classes, degrees=15.0, scale=(0.7, 1.4), shift=0.02):
        self.classes = label_list(self, "classes", classes)
        self.degrees, self.scale, self.shift = degrees, scale, shift
        check_draws(self, factors=["scale"], sizes=["degrees", "shift"])

    def draw(self, stream, n):
        """Draw ``angle`` ``(n,)`` radians, ``scale`` ``(n,)`` and ``shift`` ``(n, 2)``, the image's side being 2."""
        return dict(
            angle=geometry.degrees(stream, n, self.degrees),
            scale=stream.log_uniform(n, *self.scale),
            shift=stream.uniform((n, 2), -2 * self.shift, 2 * self.shift),
        )

    def __call__(self, images, labels, sampling, stream):
        """Warp exemplars as ``sampling`` says, and each organ by itself besides.

        Args:
            images (Tensor): ``(n, 1, H, W)`` float32 in [0, 1].
            labels (Tensor): ``(n, H, W)`` uint8; what is not among ``classes`` is background afterwards.
            sampling (Tensor): ``(n, H, W, 2)`` positions in the exemplars.
            stream (Stream): Where the parameters are drawn from.

        Returns:
            tuple[Tensor, Tensor]: Images and labels, of the same shapes.
        """
        moved, known = geometry.warp_images(images, sampling), torch.zeros_like(labels)
        for k in self.classes:
            mask = labels == k
            matrices = geometry.affine_matrices(**self.draw(stream, len(images)), center=centroid(mask))[:, None, None]
            place = (matrices[..., :2] @ sampling.unsqueeze(-1)).squeeze(-1) + matrices[..., 2]
            there = geometry.warp_labels(mask.to(torch.uint8), place) > 0
            moved = torch.where(there.unsqueeze(1), geometry.warp_images(images, place), moved)
            known = known.masked_fill(there, k)
        return moved, known


class GeometricChain:
    """A G of several parts: the first makes the grid, each further one bends it.

    Args:
        parts (dict | list[dict]): Their configs.
    """

    of_labels = ()

    def __init__(self, parts):
        if not parts:
            raise InputError(f"geometric: expected settings (a dict with a type), or a list of them, got {parts!r}")
        first, *rest = parts if isinstance(parts, (list, tuple)) else [parts]
        self.first = SYNTHESIZERS.build_for("first", "geometric: its first part", first, ["draw", "grid"])
        place, asked = "geometric: its further part", ["draw", "bend"]
        self.rest = [SYNTHESIZERS.build_for("further", place, part, asked) for part in rest]

    def __call__(self, stream, size, labels, which, turns=None):
        """Draw a change per sample and return their sampling grids: :meth:`draw`, then :meth:`grid`."""
        return self.grid(self.draw(stream, len(which)), size, labels, which, turns)

    def draw(self, stream, n):
        """Draw what each part draws, a list in their order."""
        return [part.draw(stream, n) for part in (self.first, *self.rest)]

    def grid(self, drawn, size, labels, which, turns=None, fit=None):
        """Return the ``(n, H, W, 2)`` sampling grids of what was drawn.

        Args:
            drawn (list): From :meth:`draw`.
            size (tuple[int, int]): H, W.
            labels (Tensor): ``(E, H, W)`` uint8 of the exemplars.
            which (Tensor): ``(n,)`` int64, the exemplar of each sample.
            turns (Tensor | None): ``(E,)`` radians: a further rotation of each exemplar. Default: none.
            fit (Fit | None): What maps the first part's grid before further parts bend it.
        """
        # A first part of one's own need not know of either.
        more = {key: value for key, value in (("turns", turns), ("fit", fit)) if value is not None}
        sampling = self.first.grid(drawn[0], size, labels, which, **more)
        if fit is not None:
            sampling = fit(sampling)
        for part, parameters in zip(self.rest, drawn[1:], strict=True):
            sampling = part.bend(sampling, parameters, labels, which)
        return sampling


class Fit(NamedTuple):
    """Where positions in the background's frame lie in the exemplar's: ``(n, 2)`` ratio and offset, x and y."""

    ratio: torch.Tensor
    offset: torch.Tensor

    def __call__(self, sampling):
        """Map ``(n, H, W, 2)`` positions into the exemplar's frame."""
        return sampling * self.ratio[:, None, None] + self.offset[:, None, None]

    def inverse(self, points):
        """Map ``(n, 2)`` points of the exemplar's frame into the background's."""
        return (points - self.offset) / self.ratio


@SYNTHESIZERS.register_module()
class BodyFit:
    """The exemplar's body laid upon the background's: organs land within it, where they lie in a body of its size.

    A body is what is brighter than ``level``. Its mean and standard deviation along each axis are matched, so tables
    and tubes, few pixels as they are, hardly count.

    Args:
        level (float): Grey level, of [0, 1], above which a pixel is body; for CT 0.03, -113 HU, counts fat in.
        limit (float): Most that an axis is stretched or squeezed.
    """

    role = "fit"

    def __init__(self, level=0.03, limit=2.0):
        self.level, self.limit = level, limit
        check_draws(self, probabilities=["level"], stretches=["limit"])

    def __call__(self, exemplars, backgrounds):
        """Find how samples' positions in the background's frame become positions in the exemplar's.

        Args:
            exemplars, backgrounds (Tensor): ``(n, 1, H, W)`` float32 in [0, 1], one of each a sample.

        Returns:
            Fit: Maps ``(n, H, W, 2)`` sampling positions. Where either shows no body, nothing moves.
        """
        (center, size), (there, extent) = self._body(exemplars), self._body(backgrounds)
        shown = ((size > 0) & (extent > 0)).all(1, keepdim=True)
        ratio = (size / extent.clamp(min=1e-6)).clamp(1 / self.limit, self.limit).where(shown, 1.0)
        offset = (center - there * ratio).where(shown, 0.0)
        return Fit(ratio, offset)

    def _body(self, images):
        """Return the ``(n, 2)`` means and standard deviations, x and y, of the bodies' pixels."""
        body = (images.squeeze(1) > self.level).to(torch.float32)
        count = body.sum((1, 2)).clamp(min=1)
        found = []
        for axis, across in zip(_axes(body), (1, 2), strict=True):
            weight = body.sum(across)
            mean = (weight * axis).sum(1) / count
            found.append((mean, ((weight * (axis - mean[:, None]).square()).sum(1) / count).sqrt()))
        return tuple(torch.stack(each, 1) for each in zip(*found, strict=True))


def is_organ(label):
    """Return where a label names an organ: neither background, 0, nor unknown, 255."""
    return (label > 0) & (label < 255)


def centroid(masks):
    """Return the ``(N, 2)`` centroids (x, y) of ``(N, H, W)`` bool masks, the side being 2; the centre if empty."""
    weight = masks.to(torch.float32)
    total = weight.sum((1, 2)).clamp(min=1)
    x, y = _axes(masks)
    return torch.stack([(weight.sum(1) * x).sum(1), (weight.sum(2) * y).sum(1)], 1) / total[:, None]


def mean_distance(masks, centers):
    """Return the ``(N,)`` mean distances of ``(N, H, W)`` bool masks' pixels from ``(N, 2)`` centres, likewise."""
    x, y = _axes(masks)
    across, down = x - centers[:, :1], y - centers[:, 1:]
    distance = (across.square()[:, None, :] + down.square()[:, :, None]).sqrt()
    return (distance * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)


def _axes(masks):
    height, width = masks.shape[-2:]
    x = (torch.arange(width, device=masks.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=masks.device) * 2 + 1) / height - 1
    return x, y
