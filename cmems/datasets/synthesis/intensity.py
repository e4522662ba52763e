"""I, the intensity part of Ω: the look of the organs, and of what they are pasted onto."""

import math

import torch
from torch.nn import functional as F

from cmems import geometry
from cmems.errors import InputError
from cmems.labels import label_list
from cmems.models.perturbations.base import Perturbation, check_draws
from cmems.registry import SYNTHESIZERS


@SYNTHESIZERS.register_module()
class RandomGammaGain(Perturbation):
    """``gain * image ** gamma``, clamped to [0, 1].

    Args:
        gamma (tuple[float, float]): Range of the exponent, log-uniform.
        gain (tuple[float, float]): Range of the factor, uniform.
    """

    role = "intensity"

    def __init__(self, gamma=(0.7, 1.5), gain=(0.7, 1.3)):
        self.gamma, self.gain = gamma, gain
        check_draws(self, factors=["gamma"], ranges=["gain"])

    def draw(self, stream, n):
        """Draw ``gamma`` and ``gain``, ``(n,)`` each."""
        return dict(
            gamma=stream.log_uniform(n, *self.gamma),
            gain=stream.uniform(n, *self.gain),
        )

    def apply(self, images, gamma, gain):
        """Change ``(B, C, H, W)`` images in [0, 1]."""
        return (images.pow(gamma.view(-1, 1, 1, 1)) * gain.view(-1, 1, 1, 1)).clamp(0, 1)


class OrganLook:
    """A change of the exemplar's look that knows its labels and the background; drawn per sample.

    It is called with the exemplar in the place where it will be pasted, before it is.
    """

    role = "organs"

    def __call__(self, images, labels, backgrounds, stream):
        """Change images.

        Args:
            images (Tensor): ``(B, 1, H, W)`` float32 in [0, 1].
            labels (Tensor): ``(B, H, W)`` uint8, theirs.
            backgrounds (Tensor): ``(B, 1, H, W)`` float32 in [0, 1].
            stream (Stream): Where the parameters are drawn from.

        Returns:
            Tensor: ``(B, 1, H, W)`` in [0, 1].
        """
        raise TypeError(f"{type(self).__name__} does not define __call__")


@SYNTHESIZERS.register_module()
class ClassGain(OrganLook):
    """Each class brighter or darker by a factor of its own: contrast between organs that one slice does not show.

    Args:
        width (float): The factor is exp(U(-width, width)).
    """

    def __init__(self, width=0.35):
        self.width = width
        check_draws(self, sizes=["width"])

    def __call__(self, images, labels, backgrounds, stream):
        """Multiply by class; background and unknown pixels stay."""
        gains = torch.exp(stream.uniform((len(images), 256), -self.width, self.width))
        gains[:, 0] = gains[:, 255] = 1
        return (images * gains.gather(1, labels.flatten(1).long()).view_as(images)).clamp(0, 1)


@SYNTHESIZERS.register_module()
class PaintClasses(OrganLook):
    """Paint each class by its label: its median grey level, with grain, blurred as a scanner blurs.

    Where :class:`WallShape` stretches a wall of three pixels to ten, it stretches what two of them show of their
    neighbours, and what the annotation took in too much. Painted, grey levels change where labels do (after SynthSeg,
    Billot et al. 2023, which paints whole images so).

    Args:
        classes (sequence[int]): Labels.
        probability (float): Share of the samples that are painted.
        share (tuple[float, float]): Range of how much of the grey level is paint, uniform.
        texture (tuple[float, float]): Range of the grain's standard deviation over the class's own, taken as 1.4826
            median absolute deviations, uniform.
    """

    of_labels = ("classes",)

    def __init__(self, classes, probability=0.6, share=(0.5, 1.0), texture=(0.0, 0.7)):
        self.classes = label_list(self, "classes", classes)
        self.probability, self.share, self.texture = probability, share, texture
        check_draws(self, shares=["share"], ranges=["texture"], probabilities=["probability"])

    def __call__(self, images, labels, backgrounds, stream):
        """Paint ``(B, 1, H, W)`` images, up to a pixel beyond the organs, where blurring takes it."""
        n, labels = len(images), labels.unsqueeze(1)
        # White noise of three by three, averaged: of deviation 1 again.
        grain = 3 * geometry.soften(stream.uniform(images.shape, -math.sqrt(3), math.sqrt(3)))
        grain = grain * stream.uniform((n, 1, 1, 1), *self.texture)
        painted, organ = images, torch.zeros_like(labels, dtype=torch.bool)
        for k in self.classes:
            here = labels == k
            held = torch.where(here, images, torch.nan).flatten(1)
            level = held.nanmedian(1, keepdim=True).values
            spread = 1.4826 * (held - level).abs().nanmedian(1, keepdim=True).values
            painted = torch.where(here, level.view(-1, 1, 1, 1) + spread.view(-1, 1, 1, 1) * grain, painted)
            organ = organ | here
        painted = torch.lerp(painted, geometry.soften(painted), stream.uniform((n, 1, 1, 1), 0.3, 1.0))
        share = stream.uniform((n, 1, 1, 1), *self.share) * stream.bernoulli((n, 1, 1, 1), self.probability)
        near = F.max_pool2d(organ.to(images.dtype), 3, 1, 1)
        return torch.lerp(images, painted, share * near).clamp(0, 1)


@SYNTHESIZERS.register_module()
class Trabeculae(OrganLook):
    """Strands and blobs of the wall's grey level within cavities, where annotations go on calling them cavity.

    Papillary muscles and trabeculae are outlined as part of the ventricle that they lie in. One slice shows them at
    few places, another heart or phase at others; networks that saw too few leave out what is dark, or stop at it.
    Smooth noise, of two sizes, is drawn towards the wall's level where it is above a threshold, by rank: so ``amount``
    is the share of an image that the strands would cover, and near outlines they cover more.

    Args:
        classes (sequence[int]): Labels of the cavities.
        wall (int): Label of the wall, whose median grey level strands have. Samples without it stay as they are.
        probability (float): Share of the samples, by cavity, that have strands.
        amount (tuple[float, float]): Range of the share covered, uniform.
        depth (tuple[float, float]): Range of how much of the way to the wall's level strands go, uniform.
        border (float): Largest addition to the noise, in its standard deviations, at outlines; uniform from 0.
        cells (tuple[int, int]): Cells of the coarse and of the fine noise across the image.
    """

    of_labels, one_label = ("classes", "wall"), ("wall",)

    def __init__(self, classes, wall, probability=0.7, amount=(0.0, 0.5), depth=(0.3, 1.0), border=1.5, cells=(12, 28)):
        self.classes, self.wall = label_list(self, "classes", classes), wall
        if wall in self.classes:
            raise InputError(f"Trabeculae: wall: expected another label than the cavities', got {wall!r}")
        self.probability = probability
        self.amount, self.depth, self.border, self.cells = amount, depth, border, cells
        check_draws(self, shares=["amount", "depth"], probabilities=["probability"], sizes=["border"], pairs=["cells"])

    def __call__(self, images, labels, backgrounds, stream):
        """Darken (or brighten) parts of the cavities of ``(B, 1, H, W)`` images; nothing beyond them changes."""
        n, size, labels = len(images), images.shape[2:], labels.unsqueeze(1)
        level = torch.where(labels == self.wall, images, torch.nan).flatten(1).nanmedian(1).values.view(-1, 1, 1, 1)
        coarse, fine = (
            F.interpolate(stream.uniform((n, 1, k, k)), size, mode="bicubic", align_corners=True) for k in self.cells
        )
        noise = torch.lerp(coarse, fine, stream.uniform((n, 1, 1, 1), 0.2, 0.8))
        noise = (noise - noise.mean((1, 2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
        ranked = noise.flatten(1).sort(1, descending=True).values
        reach = max(1, size[-1] // 32)
        for k in self.classes:
            here = (labels == k).to(images.dtype)
            covered = stream.uniform((n, 1), *self.amount)
            threshold = ranked.gather(1, (covered * (ranked.shape[1] - 1)).long()).view(-1, 1, 1, 1)
            near = 1 - F.avg_pool2d(here, 2 * reach + 1, 1, reach, count_include_pad=False)
            above = noise + stream.uniform((n, 1, 1, 1), 0.0, self.border) * near - threshold
            share = stream.uniform((n, 1, 1, 1), *self.depth) * stream.bernoulli((n, 1, 1, 1), self.probability)
            strands = torch.lerp(images, level, share * here * torch.sigmoid(4 * above))
            images = torch.where(level.isnan() | (here == 0), images, strands)
        return images


@SYNTHESIZERS.register_module()
class MatchQuantiles(OrganLook):
    """Draw the exemplar's grey levels towards the background's: a piecewise linear map from quantile to quantile.

    Args:
        share (tuple[float, float]): Range of how much of the way they go: 0 keeps, 1 matches.
        quantiles (int): Points of the map.
    """

    def __init__(self, share=(0.0, 1.0), quantiles=17):
        self.share, self.quantiles = share, quantiles
        check_draws(self, shares=["share"], points=["quantiles"])

    def __call__(self, images, labels, backgrounds, stream):
        """Map the grey levels of the whole image."""
        share = stream.uniform(len(images), *self.share).view(-1, 1)
        points = torch.linspace(0, 1, self.quantiles, device=images.device)
        values = images.flatten(1)
        source, target = (torch.quantile(each.flatten(1), points, dim=1).T for each in (images, backgrounds))
        above = torch.searchsorted(source.contiguous(), values).clamp(1, self.quantiles - 1)
        low, high = source.gather(1, above - 1), source.gather(1, above)
        place = ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        mapped = torch.lerp(target.gather(1, above - 1), target.gather(1, above), place)
        return torch.lerp(values, mapped, share).view_as(images).clamp(0, 1)


@SYNTHESIZERS.register_module()
class AmplitudeMix(OrganLook):
    """Mix the background's low spatial frequencies into the exemplar: amplitudes mix, phases stay.

    So exemplar and background share coil shading and overall contrast (Fourier domain adaptation: Yang & Soatto,
    CVPR 2020).

    Args:
        window (float): Half side of the mixed square of frequencies, as a share of the image's side.
        strength (tuple[float, float]): Range of the background's share in the mixture.
        probability (float): Share of the samples that are mixed.
    """

    def __init__(self, window=0.05, strength=(0.0, 1.0), probability=0.5):
        self.window, self.strength, self.probability = window, strength, probability
        check_draws(self, shares=["strength"], probabilities=["probability"], sizes=["window"])

    def __call__(self, images, labels, backgrounds, stream):
        """Mix in the Fourier domain."""
        n, (height, width) = len(images), images.shape[-2:]
        strength = stream.uniform(n, *self.strength) * stream.bernoulli(n, self.probability)
        ours, theirs = torch.fft.fft2(images), torch.fft.fft2(backgrounds).abs()
        rows, columns = (torch.fft.fftfreq(side, device=images.device).abs() <= self.window for side in (height, width))
        mixed = (rows[:, None] & columns) * strength.view(-1, 1, 1, 1)
        amplitude = torch.lerp(ours.abs(), theirs, mixed)
        return torch.fft.ifft2(torch.polar(amplitude, ours.angle())).real.clamp(0, 1)
