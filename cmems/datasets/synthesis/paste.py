"""Ω itself: the exemplar's organs pasted onto an unlabelled background, and the exemplar changed as a whole."""

import torch
from torch.nn import functional as F

from cmems import geometry
from cmems.datasets.synthesis.geometric import GeometricChain, is_organ
from cmems.errors import InputError
from cmems.labels import UNKNOWN, label_list
from cmems.models.perturbations.base import check_draws
from cmems.registry import SYNTHESIZERS


@SYNTHESIZERS.register_module()
class ExemplarPaste:
    """Ω: paste the organs of the exemplar onto backgrounds (Eq. 1).

    The organs turn and grow about their own centroid, so that they stay in the picture whatever the angle.

    Args:
        geometric (dict | list[dict]): G for the exemplar.
        intensity (dict): I for the exemplar and, with draws of its own, for the background.
        background_geometric (dict | None): G for the background. Default: the first part of ``geometric``.
        organs (sequence[dict]): Further parts of I, for the exemplar alone: see
            :class:`cmems.datasets.synthesis.intensity.OrganLook`.
        fit (dict | None): What lays the exemplar upon the background, e.g. ``BodyFit``, before G changes it, where
            fields of view differ. Default: the two pictures' grids are one.
        apart (dict | None): What moves each organ by itself besides, e.g. ``OrganJitter``; not with ``outlines``.
        drop (dict[int, float]): Probability, by label, that an organ is not pasted: slices show fewer organs than an
            exemplar, which holds them all.
        margin (int): Pixels of the exemplar's own surroundings that are pasted along; their label is background. An
            organ that is left out, or has moved away, is not among them.
        edge (float): Width, in pixels, over which what is pasted and background blend; 0 pastes hard. Labels are
            always hard.
        background (str): What the background's own, unlabelled organs count as: ``"zero"``, class 0, Eq. 1 read
            literally; or ``"unknown"``, label 255 from ``ring`` pixels around the organs on, which ``Supervised`` can
            leave out, weigh less, or leave to a teacher.
        ring (int): Width of the known background around the organs, pixels.
        outlines (sequence[int]): Labels of organs whose outlines stay smooth where they are enlarged
            (:func:`cmems.geometry.warp_outlines`). Default: every label is sampled at the nearest pixel.
    """

    role = "synthesizer"
    of_labels = ("outlines", "drop")

    def __init__(
        self,
        geometric,
        intensity,
        background_geometric=None,
        organs=(),
        fit=None,
        apart=None,
        drop=None,
        margin=0,
        edge=0.0,
        background="zero",
        ring=8,
        outlines=(),
    ):
        if background not in ("zero", "unknown"):
            raise InputError(f"ExemplarPaste: background: expected 'zero' or 'unknown', got {background!r}")
        self.geometric = GeometricChain(geometric)
        place = _part(self, "background_geometric", background_geometric, "first", optional=True)
        self.background_geometric = place or self.geometric.first
        self.intensity = _part(self, "intensity", intensity)
        self.organs = [_part(self, "organs", part) for part in organs]
        if not isinstance(drop, (dict, type(None))):
            raise InputError(f"ExemplarPaste: drop: expected {{label: probability}} or None, got {drop!r}")
        self.fit, self.apart = _part(self, "fit", fit, optional=True), _part(self, "apart", apart, optional=True)
        self.drop = dict(drop or {})
        self.margin, self.edge, self.ring, self.outlines = margin, edge, ring, _outlines(self, outlines)
        if self.apart and self.outlines:
            raise InputError("ExemplarPaste: outlines: expected none beside apart, whose organs have their own")
        self.partial = background == "unknown"
        check_draws(self, counts=["margin", "ring"], sizes=["edge"])
        for k, probability in self.drop.items():
            if not (isinstance(probability, (int, float)) and 0 <= probability <= 1):
                raise InputError(f"ExemplarPaste: drop: expected a probability, 0 to 1, of {k}, got {probability!r}")

    def __call__(self, exemplars, labels, backgrounds, stream, turns=None):
        """Synthesise one labelled image per background.

        Args:
            exemplars (Tensor): ``(E, 1, H, W)`` float32 in [0, 1]; of several, one is drawn for each background.
            labels (Tensor): ``(E, H, W)`` uint8; 255 is unknown, and no organ: where an organ's margin brings it along,
                it stays unknown.
            backgrounds (Tensor): ``(B, 1, H, W)`` float32 in [0, 1].
            stream (Stream): Where the parameters are drawn from.
            turns (Tensor | None): ``(E,)`` radians, by which each exemplar is turned besides. Default: none.

        Returns:
            tuple[Tensor, Tensor]: Images ``(B, 1, H, W)`` float32 in [0, 1] and labels ``(B, H, W)`` uint8.
        """
        n, size = len(backgrounds), backgrounds.shape[-2:]
        which = choose(stream, n, len(exemplars))
        drawn = self.geometric.draw(stream, n)
        look = self.intensity.draw(stream, n)
        place = self.background_geometric.grid(self.background_geometric.draw(stream, n), size)
        background_look = self.intensity.draw(stream, n)
        backgrounds = geometry.warp_images(backgrounds, place)
        if self.fit and turns is not None:  # bodies are laid upon each other as they lie after the turn
            turned = geometry.grid(geometry.affine_matrices(turns), labels.shape[1:])
            exemplars, labels = geometry.warp_images(exemplars, turned), geometry.warp_labels(labels, turned)
            turns = None
        fit = self.fit and self.fit(exemplars[which], backgrounds)
        organs = self.geometric.grid(drawn, size, labels, which, turns, fit)

        unclear = None
        if self.margin or self.edge:
            unclear = geometry.warp_labels((labels == UNKNOWN).to(torch.uint8)[which], organs) > 0
        labels, pasted = (labels * is_organ(labels))[which], self.intensity.apply(exemplars[which], **look)
        if self.apart:
            tissue = geometry.warp_labels(labels, organs) > 0
            pasted, labels = self.apart(pasted, labels, organs, stream)
            tissue |= labels > 0
        else:
            pasted, labels = geometry.warp_images(pasted, organs), _moved(labels, organs, self.outlines)
            tissue = labels > 0
        backgrounds = self.intensity.apply(backgrounds, **background_look)
        for k, probability in self.drop.items():
            gone = stream.bernoulli((n, 1, 1), probability)
            labels = labels.masked_fill(gone & (labels == k), 0)
        for part in self.organs:
            pasted = part(pasted, labels, backgrounds, stream)
        shown = ~(tissue & (labels == 0)).unsqueeze(1)
        share = _grown((labels > 0).unsqueeze(1).to(pasted.dtype), self.margin) * shown
        if self.edge:
            share = _soften(share, self.edge) * shown
        images = backgrounds + share * (pasted - backgrounds)
        if unclear is not None:
            labels = torch.where(unclear & (share.squeeze(1) > 0) & (labels == 0), UNKNOWN, labels)
        if self.partial:
            near = _grown(is_organ(labels).unsqueeze(1).to(pasted.dtype), self.ring).squeeze(1)
            labels = torch.where(near > 0, labels, UNKNOWN)
        return images, labels


@SYNTHESIZERS.register_module()
class WarpedExemplar:
    """The whole exemplar, its place, shape and look changed: what surrounds its organs stays true to them.

    Args:
        geometric (dict | list[dict]): G, about the organs' centroid. What it brings in from beyond the slice is black.
        intensity (dict): I.
        organs (sequence[dict]): Further parts of I; their background is the exemplar itself.
        plain (float): Share of the copies that stay as they are.
        outlines (sequence[int]): As in :class:`ExemplarPaste`.
    """

    role = "copies"
    of_labels = ("outlines",)

    def __init__(self, geometric, intensity, organs=(), plain=0.25, outlines=()):
        self.geometric, self.intensity = GeometricChain(geometric), _part(self, "intensity", intensity)
        self.organs = [_part(self, "organs", part) for part in organs]
        self.plain, self.outlines = plain, _outlines(self, outlines)
        check_draws(self, probabilities=["plain"])

    def __call__(self, exemplars, labels, which, stream, turns=None):
        """Make copies: images ``(n, 1, H, W)`` float32 in [0, 1], labels ``(n, H, W)`` uint8.

        Args:
            exemplars (Tensor): ``(E, 1, H, W)`` float32 in [0, 1].
            labels (Tensor): ``(E, H, W)`` uint8.
            which (Tensor): ``(n,)`` int64, whose copies.
            stream (Stream): Where the parameters are drawn from.
            turns (Tensor | None): As of :class:`ExemplarPaste`; plain copies stay as they are.
        """
        n = len(which)
        sampling = self.geometric(stream, labels.shape[1:], labels, which, turns)
        look, plain = self.intensity.draw(stream, n), stream.bernoulli(n, self.plain)
        copies, known = exemplars[which], labels[which]
        images = geometry.warp_images(self.intensity.apply(copies, **look), sampling)
        labels = _moved(known, sampling, self.outlines)
        for part in self.organs:
            images = part(images, labels, copies, stream)
        return (
            torch.where(plain.view(-1, 1, 1, 1), copies, images),
            torch.where(plain.view(-1, 1, 1), known, labels),
        )


# What a part is asked for: methods, or how many arguments it is called with.
_ASKED = dict(
    background_geometric=dict(methods=["draw", "grid"]),
    intensity=dict(methods=["draw", "apply"]),
    organs=dict(arguments=4),
    fit=dict(arguments=2),
    apart=dict(arguments=4),
)


def _part(owner, key, config, role=None, optional=False):
    """Build a part of ``owner``; of an optional one None gives None."""
    if optional and config is None:
        return None
    return SYNTHESIZERS.build_for(role or key, f"{type(owner).__name__}: {key}", config, **_ASKED[key])


def _outlines(part, labels):
    return label_list(part, "outlines", labels) if not isinstance(labels, (list, tuple)) or labels else ()


def choose(stream, n, exemplars):
    """Draw one of ``exemplars`` for each of ``n`` samples, ``(n,)`` int64; of one, nothing is drawn."""
    return torch.zeros(n, dtype=torch.int64, device=stream.device) if exemplars == 1 else stream.integers(n, exemplars)


def _moved(labels, sampling, outlines):
    """Sample ``(B, H, W)`` labels, some with smooth outlines."""
    return geometry.warp_outlines(labels, sampling, outlines) if outlines else geometry.warp_labels(labels, sampling)


def _grown(share, reach):
    """Grow a ``(B, 1, H, W)`` mask of 0 and 1 by ``reach`` pixels on each side."""
    return F.max_pool2d(share, 2 * reach + 1, 1, reach) if reach else share


def _soften(share, width):
    """Blur a ``(B, 1, H, W)`` mask with a box of ``width`` pixels on each side."""
    reach = max(1, round(width))
    return F.avg_pool2d(share, 2 * reach + 1, 1, reach, count_include_pad=False)
