"""How the exemplar's organs lie beside those of the other scans, found before any training."""

import math

import torch

from cmems import geometry
from cmems.datasets.synthesis.geometric import centroid, is_organ
from cmems.errors import InputError
from cmems.registry import ORIENTATIONS
from cmems.resize import resize_images


@ORIENTATIONS.register_module()
class StackOrientation:
    """The exemplar's scan is turned in its plane until it looks like the other scans.

    Scans of one kind show an organ in much the same way up; the exemplar's may lie otherwise. Discs of its slices about
    the organs, at each angle, are laid on the slices of another scan at the same places of the stack, all with one
    shift, and compared by the mean of their zero-normalised cross-correlations (Lewis, 1995). Each scan votes for its
    best angle; the answer is the direction of the mean of these votes, as unit vectors, or none where its length says
    that they do not agree. Of labels nothing but where the exemplar's organs lie is read.

    Args:
        step (float): Degrees between the angles that are tried.
        radius (float): Of the discs, as a share of the side.
        reach (float): Largest shift along each axis, likewise, of the organs from the image's centre.
        slices (int): Places of the stack that are compared.
        scans (int): Most scans that are looked at, evenly chosen.
        agreement (float): Least length of the votes' mean, 0 to 1, for which the exemplar is turned.
        width (int): Pixels of a side at which slices are compared.

    Raises:
        InputError: A number is not one of its kind.
    """

    def __init__(self, step=15.0, radius=0.45, reach=0.15, slices=6, scans=48, agreement=0.5, width=48):
        for name, value, least in (("slices", slices, 1), ("scans", scans, 1), ("width", width, 16)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"StackOrientation: {name}: expected an integer of {least} or more, got {value!r}")
        for name, value, least, most in (
            ("step", step, 1, 180),
            ("radius", radius, 0.1, 0.5),
            ("reach", reach, 0, 0.5),
            ("agreement", agreement, 0, 1),
        ):
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(f"StackOrientation: {name}: expected a number from {least} to {most}, got {value!r}")
        self.radius, self.slices, self.scans, self.agreement, self.width = radius, slices, scans, agreement, width
        self.angles = torch.arange(0, 360, step).deg2rad()
        reach = round(reach * width)
        self.shifts = torch.arange(-reach, reach + 1)

    def __call__(self, images, stacks, rows, labels):
        """Tell how each exemplar must be turned to lie as the other scans do.

        Args:
            images (np.ndarray): ``(N, S, S)`` float, [0, 1]: the slices of all scans; may be a map.
            stacks (Sequence[range]): Rows of each scan.
            rows (Sequence[int]): Of the exemplars.
            labels (Tensor): ``(E, S, S)`` uint8, 255 unknown.

        Returns:
            Tensor: ``(E,)`` float32 radians, as :func:`cmems.geometry.affine_matrices` takes them; 0 where the scans do
            not agree.
        """
        turns, stacks = [], list(stacks)
        for row, label in zip(rows, labels.cpu(), strict=True):
            (home,) = (stack for stack in stacks if row in stack)
            others = [stack for stack in stacks if stack is not home]
            few = min(self.scans, len(others))
            turns.append(self._turn(images, home, [others[k * len(others) // few] for k in range(few)], label))
        return torch.tensor(turns)

    def _turn(self, images, home, others, label):
        center, count = centroid(is_organ(label)[None]), len(self.angles)
        sampling = geometry.grid(
            geometry.affine_matrices(self.angles, shift=-center, center=center), (self.width, self.width)
        )
        axis = torch.linspace(-1, 1, self.width)
        disc = axis.square() + axis.square()[:, None] <= (2 * self.radius) ** 2
        mask = disc & (geometry.warp_images(torch.ones(count, 1, self.width, self.width), sampling)[:, 0] > 0.5)
        turned = [geometry.warp_images(z.expand(count, 1, -1, -1), sampling)[:, 0] for z in self._slices(images, home)]
        templates, pixels = [_normalised(each, mask) for each in turned], mask.sum((1, 2), keepdim=True)
        votes, voters = torch.zeros(2), 0
        for stack in others:
            pairs = zip(templates, self._slices(images, stack), strict=True)
            scores = sum(self._laid(each, mask, pixels, z) for each, z in pairs).amax((1, 2))
            if scores.max() - scores.min() > 1e-3:  # of correlations; else it shows nothing
                best, voters = self.angles[scores.argmax()], voters + 1
                votes += torch.stack([best.cos(), best.sin()])
        agreed = voters and votes.norm() / voters >= self.agreement
        return math.atan2(votes[1], votes[0]) if agreed else 0.0

    def _slices(self, images, stack):
        """Return slices ``(n, w, w)`` of a scan at evenly spaced places, blurred by a pixel."""
        rows = [stack[int((k + 0.5) / self.slices * len(stack))] for k in range(self.slices)]
        chosen = torch.stack([torch.from_numpy(images[row].astype("float32")) for row in rows])
        return geometry.soften(resize_images(chosen, (self.width, self.width)).unsqueeze(1)).squeeze(1)

    def _laid(self, template, mask, pixels, image):
        """Return the correlations of templates ``(A, w, w)`` with an image, at each shift."""
        size = (2 * self.width, 2 * self.width)

        def over(weights, values):
            spectrum = torch.fft.rfft2(weights, size).conj() * torch.fft.rfft2(values, size)
            return torch.fft.irfft2(spectrum, size)[:, self.shifts[:, None], self.shifts]

        spread = over(mask.float(), image.square()) - over(mask.float(), image).square() / pixels
        return over(template, image) / spread.clamp(min=1e-3).sqrt()


def _normalised(images, mask):
    """Return ``(A, w, w)`` images of mean 0 and norm 1 within a mask, and 0 without."""
    centered = (images - (images * mask).sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True)) * mask
    return centered / centered.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-6)
