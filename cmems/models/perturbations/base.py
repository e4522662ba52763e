"""The contract of perturbations: parameters are drawn first, as data, then applied to the whole batch."""

import math
from numbers import Integral, Real

from cmems.errors import InputError

# What a setting that is drawn by must be: how many numbers, whether they fit together, and both in words.
_KINDS = dict(
    factors=(2, lambda low, high: 0 < low <= high, "(low, high), numbers of more than 0, low at most high"),
    ranges=(2, lambda low, high: 0 <= low <= high, "(low, high), numbers of 0 or more, low at most high"),
    shares=(2, lambda low, high: 0 <= low <= high <= 1, "(low, high), both 0 to 1, low at most high"),
    probabilities=(1, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    sizes=(1, lambda value: value >= 0, "a number of 0 or more"),
    positives=(1, lambda value: value > 0, "a number of more than 0"),
    stretches=(1, lambda value: value >= 1, "a number of 1 or more"),
    counts=(1, lambda value: value >= 0 and isinstance(value, Integral), "an integer of 0 or more"),
    widths=(1, lambda value: value >= 1 and isinstance(value, Integral), "a positive integer"),
    points=(1, lambda value: value >= 2 and isinstance(value, Integral), "an integer of 2 or more"),
    pairs=(2, lambda *both: all(n >= 2 and isinstance(n, Integral) for n in both), "two integers of 2 or more"),
)


def check_draws(part, **names):
    """Refuse settings that nothing can be drawn by, once a part has them as its attributes.

    Args:
        part: A perturbation, or a part of Ω.
        **names (sequence[str]): The attributes by kind: ``factors``, ranges above 0; ``ranges``; ``shares``, ranges
            within 0 to 1; ``probabilities``; ``sizes``; ``positives``; ``stretches``, 1 or more; ``counts``;
            ``widths``, positive integers; ``points``, two or more, and ``pairs`` of them.

    Raises:
        InputError: Naming part and attribute.
    """
    for kind, attributes in names.items():
        count, fits, wanted = _KINDS[kind]
        for name in attributes:
            value = getattr(part, name)
            numbers = value if count > 1 else [value]
            if not (
                isinstance(numbers, (list, tuple))
                and len(numbers) == count
                and all(isinstance(n, Real) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
                and fits(*numbers)
            ):
                raise InputError(f"{type(part).__name__}: {name}: expected {wanted}, got {value!r}")


class Perturbation:
    """A random change of a batch, with its own parameters for every sample.

    A subclass defines :meth:`draw` and :meth:`apply`; one that draws nothing in advance may override ``__call__``.

    Attributes:
        role (str | None): The place that it is made for: ``weak``, ``strong``, ``feature`` or ``mix``; None: any.
    """

    role = None

    def draw(self, stream, n):
        """Draw the parameters of ``n`` samples from a :class:`cmems.seeding.Stream`, as tensors of ``n`` rows."""
        return {}

    def apply(self, images, **parameters):
        """Change ``(B, C, H, W)`` float32 images in [0, 1]; return the same shape, dtype and range."""
        raise TypeError(f"{type(self).__name__} does not define apply")

    def __call__(self, images, stream):
        """Draw and apply."""
        return self.apply(images, **self.draw(stream, len(images)))
