"""The contract of perturbations: parameters are drawn first, as data, then applied to the whole batch."""


class Perturbation:
    """A random change of a batch, with its own parameters for every sample.

    A subclass defines :meth:`draw` and :meth:`apply`; one that draws nothing in advance may override ``__call__``.
    """

    def draw(self, stream, n):
        """Draw the parameters of ``n`` samples from a :class:`cmems.seeding.Stream`, as tensors of ``n`` rows."""
        return {}

    def apply(self, images, **parameters):
        """Change ``(B, C, H, W)`` float32 images in [0, 1]; return the same shape, dtype and range."""
        raise TypeError(f"{type(self).__name__} does not define apply")

    def __call__(self, images, stream):
        """Draw and apply."""
        return self.apply(images, **self.draw(stream, len(images)))
