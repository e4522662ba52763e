"""Ω (Eq. 1): the exemplar's organs, changed in look and place, pasted onto an unlabelled background; on the device."""

import math

import torch

from cmems import geometry
from cmems.models.perturbations.base import Perturbation
from cmems.registry import SYNTHESIZERS


@SYNTHESIZERS.register_module()
class RandomAffine(Perturbation):
    """G, the geometric part: rotation, scale, shift, mirroring and a smooth elastic deformation.

    Args:
        degrees (float): Rotation, uniform in ± this many degrees.
        scale (tuple[float, float]): Range of the enlargement, log-uniform.
        shift (float): Shift along each axis, uniform in ± this share of the image's side.
        flip (float): Probability of mirroring left to right.
        elastic (float): Standard deviation of the deformation at its control points, as a share of the image's side.
        control_points (int): Control points along each side; between them the deformation is bicubic.
    """

    def __init__(self, degrees=180.0, scale=(0.7, 1.4), shift=0.15, flip=0.5, elastic=0.0, control_points=9):
        self.degrees, self.scale, self.shift, self.flip = degrees, scale, shift, flip
        self.elastic, self.control_points = elastic, control_points

    def draw(self, stream, n):
        """Draw ``angle`` ``(n,)`` radians, ``scale`` ``(n,)``, ``shift`` ``(n, 2)``, ``flip`` ``(n,)`` bool, and
        ``displacement`` ``(n, 2, C, C)`` (x, y) at the control points, the side of the image being 2.
        """
        parameters = dict(
            angle=geometry.degrees(stream, n, self.degrees),
            scale=torch.exp(stream.uniform(n, math.log(self.scale[0]), math.log(self.scale[1]))),
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

    def grid(self, parameters, size, center=None):
        """Return the ``(n, H, W, 2)`` sampling grid of drawn parameters."""
        displacement = parameters["displacement"]
        affine = {k: v for k, v in parameters.items() if k != "displacement"}
        return geometry.grid(geometry.affine_matrices(**affine, center=center), size, displacement)


@SYNTHESIZERS.register_module()
class RandomGammaGain(Perturbation):
    """I, the intensity part: ``gain * image ** gamma``, clamped to [0, 1].

    Args:
        gamma (tuple[float, float]): Range of the exponent, log-uniform.
        gain (tuple[float, float]): Range of the factor, uniform.
    """

    def __init__(self, gamma=(0.7, 1.5), gain=(0.7, 1.3)):
        self.gamma, self.gain = gamma, gain

    def draw(self, stream, n):
        """Draw ``gamma`` and ``gain``, ``(n,)`` each."""
        return dict(
            gamma=torch.exp(stream.uniform(n, math.log(self.gamma[0]), math.log(self.gamma[1]))),
            gain=stream.uniform(n, *self.gain),
        )

    def apply(self, images, gamma, gain):
        """Change ``(B, C, H, W)`` images in [0, 1]."""
        return (images.pow(gamma.view(-1, 1, 1, 1)) * gain.view(-1, 1, 1, 1)).clamp(0, 1)


@SYNTHESIZERS.register_module()
class ExemplarPaste:
    """Ω: paste the organs of the exemplar onto backgrounds (Eq. 1).

    The organs turn and grow about their own centroid, so that they stay in the picture whatever the angle.

    Args:
        geometric (dict): G for the exemplar.
        intensity (dict): I for the exemplar and, with draws of its own, for the background.
        background_geometric (dict | None): G for the background. Default: as ``geometric``.
        edge (float): Width, in pixels, over which organ and background blend; 0 pastes hard. Labels are always hard.
    """

    def __init__(self, geometric, intensity, background_geometric=None, edge=0.0):
        self.geometric = SYNTHESIZERS.build(geometric)
        self.background_geometric = SYNTHESIZERS.build(background_geometric or geometric)
        self.intensity = SYNTHESIZERS.build(intensity)
        self.edge = edge

    def __call__(self, image, label, backgrounds, stream):
        """Synthesise one labelled image per background.

        Args:
            image (Tensor): ``(1, H, W)`` float32 exemplar in [0, 1].
            label (Tensor): ``(H, W)`` uint8.
            backgrounds (Tensor): ``(B, 1, H, W)`` float32 in [0, 1].
            stream (Stream): Where the parameters are drawn from.

        Returns:
            tuple[Tensor, Tensor]: Images ``(B, 1, H, W)`` float32 in [0, 1] and labels ``(B, H, W)`` uint8.
        """
        n, size = len(backgrounds), backgrounds.shape[-2:]
        organs = self.geometric.grid(self.geometric.draw(stream, n), size, center=centroid(label > 0))
        look = self.intensity.draw(stream, n)
        place = self.background_geometric.grid(self.background_geometric.draw(stream, n), size)
        background_look = self.intensity.draw(stream, n)

        labels = geometry.warp_labels(label.expand(n, -1, -1), organs)
        pasted = geometry.warp_images(self.intensity.apply(image.expand(n, -1, -1, -1), **look), organs)
        backgrounds = self.intensity.apply(geometry.warp_images(backgrounds, place), **background_look)
        share = (labels > 0).unsqueeze(1).to(pasted.dtype)
        if self.edge:
            share = _soften(share, self.edge)
        return backgrounds + share * (pasted - backgrounds), labels


def centroid(mask):
    """Return the ``(2,)`` centroid (x, y) of an ``(H, W)`` bool mask in normalised coordinates; the centre if empty."""
    height, width = mask.shape
    weight = mask.to(torch.float32)
    total = weight.sum().clamp(min=1)
    x = (torch.arange(width, device=mask.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=mask.device) * 2 + 1) / height - 1
    return torch.stack([(weight.sum(0) * x).sum(), (weight.sum(1) * y).sum()]) / total


def _soften(share, width):
    """Blur a ``(B, 1, H, W)`` mask with a box of ``width`` pixels on each side."""
    reach = max(1, round(width))
    return torch.nn.functional.avg_pool2d(share, 2 * reach + 1, 1, reach, count_include_pad=False)
