"""Objectives that read the decoder's feature maps through heads of their own: deep supervision and contrast."""

import torch
from torch import nn
from torch.nn import functional as F

from cmems import processes
from cmems.errors import InputError
from cmems.models.losses.objectives import Objective
from cmems.models.perturbations.base import check_draws
from cmems.precision import without_autocast
from cmems.registry import CONSISTENCY_LOSSES, LOSSES
from cmems.seeding import derive_key


class _HeadObjective(Objective):
    """An objective with heads on decoder levels, which train with the networks and are not used for prediction."""

    needs_levels = True

    def bind(self, networks):
        """Make every network's heads, from a key of their own; raises InputError where one shows no levels."""
        for net in networks:
            if not getattr(net, "level_channels", None):
                raise InputError(f"{type(self).__name__}: {type(net).__name__} does not show its decoder's levels")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_key(torch.initial_seed(), "heads", self.name) % (1 << 63))
            self.heads = nn.ModuleList(self.make(net) for net in networks)


def _head(channels, hidden, out):
    """Return 1x1 convolution, norm, ReLU, 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, out, 1),
    )


@CONSISTENCY_LOSSES.register_module()
class DeepSupervision(_HeadObjective):
    """Multi-label deep supervision (Reiss et al., CVPR 2021): which classes lie within each cell of a coarse level.

    ``sum over levels of BCE(sigmoid(head_l), maxpool_l(onehot(Y)))``, mean over batch, classes and cells. Y is the
    label where ``teacher`` is None, else the pseudo-label. Of every decoder level but the finest, which has the logits.
    Where pseudo-labels leave pixels out, a cell teaches which classes it surely holds, and, with none left out of it,
    which it does not.

    Args:
        source (str): Where the images come from.
        teacher (str | None): None for a labelled source; ``ema`` or ``self``.
        name (str | None): Key in the log. Default ``loss_deep_<source>``.
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every objective.
    """

    def __init__(self, source, teacher=None, name=None, **schedule):
        super().__init__(name or f"loss_deep_{source}", source, **schedule)
        if teacher not in (None, "ema", "self"):
            raise InputError(f"DeepSupervision: teacher: expected None, 'ema' or 'self', got {teacher!r}")
        self.teacher = teacher

    @property
    def labelled_sources(self):
        """Its source, where no teacher says what is there."""
        return () if self.teacher else (self.source,)

    def make(self, net):
        """Make one network's heads."""
        return nn.ModuleList(_head(c, c, net.num_classes) for c in net.level_channels[:-1])

    def value(self, step):
        """Sum over networks and levels."""
        total = 0
        for m, heads in enumerate(self.heads):
            if self.teacher is None:
                labels, known = step.labels(self.source, m), None
            else:
                target = step.pseudo_label(m, self.source, self.teacher)
                labels, known = target.labels, target.weight
            levels = step.levels(m, self.source, "weak", m)
            classes = heads[0][-1].out_channels
            present = F.one_hot(labels.long(), classes).permute(0, 3, 1, 2).float()
            if known is not None:
                present = present * known.unsqueeze(1)
            for head, level in zip(heads, levels, strict=False):
                cells, counts = level.shape[-2:], None
                target = F.adaptive_max_pool2d(present, cells)
                if known is not None:
                    counts = torch.maximum(target, 1 - F.adaptive_max_pool2d(1 - known.unsqueeze(1), cells))
                total = total + F.binary_cross_entropy_with_logits(head(level).float(), target, counts)
        return total


@LOSSES.register_module()
class PrototypeContrast(_HeadObjective):
    """Pixel-prototype contrast: a pixel's embedding is nearer to its class's mean than to the other classes'.

    ``-log exp(z·p_y / t) / sum_k exp(z·p_k / t)`` with normalised z and p; p_k is the batch's mean over class k. A
    class that the batch lacks takes no part. ELSNet (En & Guo 2022) names the idea; temperature, width, weight and
    this form are choices of CMEMS.

    Args:
        source (str): A labelled source.
        channels (int): Width of the embedding.
        temperature (float): t.
        name (str | None): Key in the log. Default ``loss_prototype_<source>``.
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every objective.
    """

    def __init__(self, source, channels=32, temperature=0.1, name=None, **schedule):
        super().__init__(name or f"loss_prototype_{source}", source, **schedule)
        self.channels, self.temperature = channels, temperature
        check_draws(self, widths=["channels"], positives=["temperature"])

    @property
    def labelled_sources(self):
        """Its source."""
        return (self.source,)

    def make(self, net):
        """Make one network's head."""
        return _head(net.level_channels[-1], self.channels, self.channels)

    def value(self, step):
        """Sum over the networks."""
        total = 0
        for m, head in enumerate(self.heads):
            labels = step.labels(self.source, m)
            z = F.normalize(head(step.levels(m, self.source, "weak", m)[-1]).float(), dim=1)
            total = total + prototype_contrast(z, labels, step.num_classes, self.temperature)
        return total


@without_autocast
def prototype_contrast(z, labels, num_classes, temperature):
    """Return the loss of ``(B, C, H, W)`` unit embeddings under ``(B, H, W)`` labels."""
    member = F.one_hot(labels.long(), num_classes).flatten(0, 2).to(z.dtype)
    z = z.permute(0, 2, 3, 1).flatten(0, 2)
    sums, counts = processes.add_up(member.T @ z, member.sum(0))
    scores = (z @ F.normalize(sums, dim=1).T / temperature).masked_fill(counts == 0, float("-inf"))
    # A product with the one-hot target: its gradient adds up in a fixed order. -inf times 0 must be 0.
    return -(scores.log_softmax(1).clamp(min=-1e4) * member).sum() / len(member)


@CONSISTENCY_LOSSES.register_module()
class GlobalContrast(_HeadObjective):
    """Global contrast (Chaitanya et al., NeurIPS 2020): two views of a slice embed alike, other slices apart.

    NT-Xent on the pooled bottleneck of two differently moved and jittered views; their random variant, since slices
    of a pool know no position within a volume.

    Args:
        source (str): Where the images come from.
        channels (int): Width of the embedding.
        temperature (float): t (their 0.1).
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every objective.
    """

    reaches_all = False

    def __init__(self, source="unlabeled", channels=128, temperature=0.1, name="loss_global", **schedule):
        super().__init__(name, source, **schedule)
        self.channels, self.temperature = channels, temperature
        check_draws(self, widths=["channels"], positives=["temperature"])

    @property
    def perturbations(self):
        """What both of its views take."""
        return ("strong",)

    @property
    def mixed_sources(self):
        """Its source, whose other slices are the negatives."""
        return (self.source,)

    def check(self, learner, sources):
        """Return what keeps this objective from running, one line per problem."""
        shared = [f"GlobalContrast: expected two views of '{self.source}', got one: model.shared_weak names it"]
        return super().check(learner, sources) + shared * (self.source in learner.shared_weak)

    def make(self, net):
        """Make one network's head."""
        width = net.level_channels[0]
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, self.channels))

    def value(self, step):
        """Sum over the networks."""
        total = 0
        for m, head in enumerate(self.heads):
            # Owners beyond the networks' own: two weak views that no other objective looks at.
            first, second = step.num_networks + 2 * m, step.num_networks + 2 * m + 1
            z = [
                F.normalize(head(step.levels(m, self.source, "strong", owner)[0].mean((2, 3))).float(), dim=1)
                for owner in (first, second)
            ]
            total = total + nt_xent(*map(processes.whole_batch, z), self.temperature)
        return total


@CONSISTENCY_LOSSES.register_module()
class LocalContrast(_HeadObjective):
    """Local contrast (Chaitanya et al., NeurIPS 2020): a region embeds alike in two jittered views, unlike the others.

    The decoder alone learns it; the encoder stays as it is, as their second stage has it. Both views share their
    geometry, so that a cell of one is the same cell of the other; the negatives are the other cells of the same slice.

    Args:
        source (str): Where the images come from.
        level (int): Decoder level, from 1, the first above the bottleneck (their l = 3).
        cells (int): Cells along each side, 2 or more.
        channels (int): Width of the embedding.
        temperature (float): t (their 0.1).
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every objective.
    """

    reaches_all = False

    def __init__(
        self, source="unlabeled", level=3, cells=4, channels=64, temperature=0.1, name="loss_local", **schedule
    ):
        super().__init__(name, source, **schedule)
        self.level, self.cells, self.channels, self.temperature = level, cells, channels, temperature
        check_draws(self, widths=["level", "cells", "channels"], positives=["temperature"])
        if cells < 2:
            raise InputError(f"LocalContrast: cells: expected 2 or more, as one has no others, got {cells}")

    @property
    def perturbations(self):
        """What both of its views take."""
        return ("strong",)

    def make(self, net):
        """Make one network's head."""
        if self.level >= len(net.level_channels):
            last = len(net.level_channels) - 1
            raise InputError(f"LocalContrast: level: expected 1 to {last}, the decoder's levels, got {self.level}")
        return _head(net.level_channels[self.level], self.channels, self.channels)

    def value(self, step):
        """Sum over the networks."""
        total = 0
        for m, head in enumerate(self.heads):
            z = []
            for view in ("strong", "strong2"):
                level = head(step.levels(m, self.source, view, m, frozen=True)[self.level]).float()
                z.append(F.normalize(F.adaptive_avg_pool2d(level, self.cells).flatten(2).transpose(1, 2), dim=2))
            total = total + torch.stack([nt_xent(a, b, self.temperature) for a, b in zip(*z, strict=True)]).mean()
        return total


@without_autocast
def nt_xent(a, b, temperature):
    """Return NT-Xent (Chen et al. 2020) of two ``(n, C)`` sets of unit vectors whose rows correspond."""
    z = torch.cat([a, b])
    n = len(a)
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    scores = (z @ z.T / temperature).masked_fill(itself, -1e4)
    partner = itself.roll(n, 0)
    return -(scores.log_softmax(1) * partner).sum() / (2 * n)
