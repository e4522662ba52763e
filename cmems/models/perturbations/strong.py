"""Strong perturbations S: the look of a slice; no pixel moves, so labels stay."""

import torch
from torch.nn import functional as F

from cmems.errors import InputError
from cmems.models.perturbations.base import Perturbation, check_draws
from cmems.registry import PERTURBATIONS


def _per_sample(values):
    return values.view(-1, 1, 1, 1)


@PERTURBATIONS.register_module()
class ColorJitter(Perturbation):
    """Brightness and contrast jitter of strength α; saturation leaves a one-channel image as it is.

    Factors are uniform in [max(0, 1 - α), 1 + α] and the two act in random order, as in torchvision's ``ColorJitter``
    on grey images. α = 1 may give an all-black slice.

    Args:
        strength (float): α (paper: 1.0 on ACDC, 0.2 on Synapse).
        probability (float): Share of the samples that are jittered.
    """

    role = "strong"

    def __init__(self, strength, probability=1.0):
        self.strength, self.probability = strength, probability
        check_draws(self, sizes=["strength"], probabilities=["probability"])

    def draw(self, stream, n):
        """Draw ``brightness``, ``contrast`` factors ``(n,)`` and ``contrast_first`` ``(n,)`` bool."""
        low, high = max(0.0, 1 - self.strength), 1 + self.strength
        kept = ~stream.bernoulli(n, self.probability)
        return dict(
            brightness=stream.uniform(n, low, high).masked_fill(kept, 1),
            contrast=stream.uniform(n, low, high).masked_fill(kept, 1),
            contrast_first=stream.bernoulli(n, 0.5),
        )

    def apply(self, images, brightness, contrast, contrast_first):
        """Jitter ``(B, C, H, W)`` images in [0, 1]."""
        brightness, contrast = _per_sample(brightness), _per_sample(contrast)
        # Two orders of two clamped affine maps: the first step's slope and offset are chosen per sample.
        first = _per_sample(contrast_first)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (
            images * torch.where(first, contrast, brightness) + torch.where(first, (1 - contrast) * mean, 0)
        ).clamp(0, 1)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return (images * torch.where(first, brightness, contrast) + torch.where(first, 0, (1 - contrast) * mean)).clamp(
            0, 1
        )


@PERTURBATIONS.register_module()
class GaussianBlur(Perturbation):
    """Gaussian blur with its own width per sample (Table 9).

    Args:
        sigma (tuple[float, float]): Range of the standard deviation, in pixels.
        probability (float): Share of the samples that are blurred.
    """

    role = "strong"

    def __init__(self, sigma=(0.1, 2.0), probability=0.5):
        self.sigma, self.probability = sigma, probability
        check_draws(self, ranges=["sigma"], probabilities=["probability"])
        self.radius = max(1, int(3 * sigma[1] + 0.5))

    def draw(self, stream, n):
        """Draw ``sigma`` ``(n,)`` pixels, 0 for a sample left sharp."""
        kept = ~stream.bernoulli(n, self.probability)
        return dict(sigma=stream.uniform(n, *self.sigma).masked_fill(kept, 0))

    def apply(self, images, sigma):
        """Blur ``(B, C, H, W)`` images, mirrored at the border."""
        b, c, height, width = images.shape
        radius = min(self.radius, height - 1, width - 1)  # a mirror shows no more than the image
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
        kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3).view(-1, 1)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
        padded = F.pad(images.reshape(1, b * c, height, width), [radius] * 4, mode="reflect")
        rows = F.conv2d(padded, kernel[:, None, None, :], groups=b * c)
        return F.conv2d(rows, kernel[:, None, :, None], groups=b * c).view(b, c, height, width)


@PERTURBATIONS.register_module()
class Sharpness(Perturbation):
    """Sharpness jitter (Table 9): a blend of the image and its 3x3-smoothed copy, as in torchvision.

    Args:
        strength (float): The factor is uniform in [max(0, 1 - strength), 1 + strength]; 0 smooths, 1 keeps, 2 sharpens.
        probability (float): Share of the samples that change.
    """

    role = "strong"

    def __init__(self, strength=1.0, probability=0.5):
        self.strength, self.probability = strength, probability
        check_draws(self, sizes=["strength"], probabilities=["probability"])

    def draw(self, stream, n):
        """Draw ``factor`` ``(n,)``."""
        kept = ~stream.bernoulli(n, self.probability)
        return dict(factor=stream.uniform(n, max(0.0, 1 - self.strength), 1 + self.strength).masked_fill(kept, 1))

    def apply(self, images, factor):
        """Sharpen or smooth ``(B, C, H, W)`` images in [0, 1]; the outermost pixels stay."""
        channels = images.shape[1]
        kernel = images.new_full((channels, 1, 3, 3), 1 / 13)
        kernel[:, :, 1, 1] = 5 / 13
        smooth = images.clone()
        smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel, groups=channels)
        return (smooth + _per_sample(factor) * (images - smooth)).clamp(0, 1)


@PERTURBATIONS.register_module()
class Compose(Perturbation):
    """Several perturbations one after the other; a list in a config means this.

    Args:
        perturbations (list[dict]): Configs of perturbations, all strong or all of features.
    """

    def __init__(self, perturbations):
        self.perturbations = [PERTURBATIONS.build(p) for p in perturbations]
        roles = {p.role for p in self.perturbations if getattr(p, "role", None)}
        if len(roles) > 1 or not roles <= {"strong", "feature"}:
            got = " and ".join(sorted(roles))
            raise InputError(f"Compose: expected strong perturbations, or feature perturbations, got {got}")
        self.role = next(iter(roles), None)

    def __call__(self, images, stream):
        """Apply each in turn to ``(B, C, H, W)`` images."""
        for perturbation in self.perturbations:
            images = perturbation(images, stream)
        return images
