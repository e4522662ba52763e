"""Batched affine maps of square slices: one grid per sample, images and labels through the same grid."""

import math

import torch
from torch.nn import functional as F


def affine_matrices(angle, scale=None, shift=None, flip=None, center=None):
    """Build sampling matrices: output position → input position, in normalised coordinates.

    The content is mirrored, scaled and rotated about ``center``, then shifted.

    Args:
        angle (Tensor): ``(B,)`` radians.
        scale (Tensor | None): ``(B,)`` enlargement of the content. Default 1.
        shift (Tensor | None): ``(B, 2)`` shift of the content (x, y); the side of the image is 2.
        flip (Tensor | None): ``(B,)`` bool; True mirrors the content left to right, before it is rotated.
        center (Tensor | None): ``(2,)`` or ``(B, 2)`` fixed point (x, y). Default the image's centre.

    Returns:
        Tensor: ``(B, 2, 3)`` for the ``warp`` functions.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    inverse_scale = torch.ones_like(angle) if scale is None else 1 / scale
    mirror = torch.ones_like(angle) if flip is None else 1 - 2 * flip.to(angle.dtype)
    linear = torch.stack(
        [torch.stack([mirror * cos, mirror * sin], 1), torch.stack([-sin, cos], 1)], 1
    ) * inverse_scale.view(-1, 1, 1)
    center = angle.new_zeros(2) if center is None else center
    landing = center + (0 if shift is None else shift)
    offset = center - (linear @ (landing.expand(len(angle), 2).unsqueeze(-1))).squeeze(-1)
    return torch.cat([linear, offset.unsqueeze(-1)], dim=2)


def invert(matrices):
    """Invert ``(B, 2, 3)`` sampling matrices."""
    (a, b), (c, d) = matrices[:, 0, :2].T, matrices[:, 1, :2].T
    # In closed form: torch.linalg.inv waits for the device.
    linear = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
    return torch.cat([linear, -linear @ matrices[:, :, 2:]], dim=2)


def grid(matrices, size, displacement=None):
    """Return the ``(B, H, W, 2)`` sampling grid of a ``(H, W)`` output.

    Args:
        matrices (Tensor): ``(B, 2, 3)``.
        size (tuple[int, int]): H, W.
        displacement (Tensor | None): ``(B, 2, C, C)`` further shift (x, y) at control points, bicubic between them.
    """
    sampling = F.affine_grid(matrices, (len(matrices), 1, *size), align_corners=False)
    if displacement is None:
        return sampling
    return sampling + F.interpolate(displacement, size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def warp_images(images, sampling):
    """Sample ``(B, C, H, W)`` images bilinearly at ``sampling``; zero outside."""
    return F.grid_sample(images, sampling, mode="bilinear", padding_mode="zeros", align_corners=False)


def warp_labels(labels, sampling, outside=0):
    """Sample ``(B, H, W)`` uint8 labels at the nearest pixel; ``outside`` beyond the border."""
    shifted = labels.unsqueeze(1).float() - outside
    moved = F.grid_sample(shifted, sampling, mode="nearest", padding_mode="zeros", align_corners=False)
    return (moved.squeeze(1) + outside).to(torch.uint8)


def warp_outlines(labels, sampling, classes):
    """Sample ``(B, H, W)`` uint8 labels, zero outside, with smooth outlines of ``classes`` (sequence[int]).

    Each class is blurred over its neighbours and sampled bilinearly, and the largest wins: where ``sampling`` enlarges,
    borders are no stairs. Organs of a few pixels and lines, which the blur would lose, stay whole. What is none of
    ``classes``, 255 too, is sampled at the nearest pixel.
    """
    masks = torch.stack([labels == k for k in classes], 1).float()
    soft = soften(masks)
    own, most = (soft * masks).sum(1), torch.maximum(soft.amax(1), 1 - soft.sum(1))
    few = (soften(masks, 3) * masks).sum(1) < 12.5 / 49  # of 7x7 pixels; a corner of a large organ has 16
    whole = masks.any(1) & few & (own < most)
    moved = warp_images(torch.where(whole.unsqueeze(1), masks, soft), sampling)
    share, best = moved.max(1)
    others = warp_labels(labels, sampling)
    outlined = torch.stack([others == k for k in classes], 1).any(1)
    # An outline that draws back leaves what it bordered on.
    rest = labels.masked_fill(masks.any(1), 0)
    beside = warp_labels(F.max_pool2d(rest.unsqueeze(1).float(), 3, 1, 1).squeeze(1).to(torch.uint8), sampling)
    empty = warp_images(soften((labels == 0).unsqueeze(1).float()), sampling).squeeze(1)
    others = torch.where(outlined, beside.masked_fill(2 * empty >= 1 - moved.sum(1), 0), others)
    found = share >= 1 - moved.sum(1)
    for place, k in enumerate(classes):
        others = others.masked_fill(found & (best == place), k)
    return others


def soften(masks, reach=1):
    """Average ``(B, C, H, W)`` maps over ``reach`` pixels on each side; beyond the border they go on."""
    return F.avg_pool2d(F.pad(masks, (reach,) * 4, mode="replicate"), 2 * reach + 1, 1)


def degrees(stream, n, limit):
    """Draw ``(n,)`` angles in radians, uniform in ±``limit`` degrees."""
    return stream.uniform(n, -limit, limit) * (math.pi / 180)
