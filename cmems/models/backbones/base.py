"""The contract of every segmentation network: encode, decode levels, head; forward runs the three in turn."""

from torch import nn

from cmems.errors import InputError


class EncoderDecoder(nn.Module):
    """A segmentation network whose features an objective may perturb between its two halves.

    A subclass defines ``encode``, ``decode_levels`` and a submodule ``head``, which turns the finest decoder level into
    logits; the levels are what deep supervision and contrastive objectives read.

    Attributes:
        feature_channels (tuple[int]): Channels of the maps that ``encode`` returns, fine to coarse.
        level_channels (tuple[int]): Channels of the maps that ``decode_levels`` returns, coarse to fine.
        divisor (int): Height and width must be multiples of it.
        in_channels (int): Channels of the images.
        num_classes (int): K, background included.
        takes_views_together (bool): On a CPU, an image's answer does not depend on the other views of its batch, see
            :func:`cmems.models.layers.views_in_one_batch`.
    """

    divisor = 1
    takes_views_together = False
    in_channels = 1
    num_classes = None
    feature_channels = None
    level_channels = None

    def encode(self, images):
        """Encode ``(B, C, H, W)`` images into a list of feature maps, fine to coarse."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    def decode_levels(self, features):
        """Decode the list that ``encode`` returns into feature maps, coarse to fine.

        The first is the bottleneck, ``features[-1]`` itself; the last has the height and width of the images.
        """
        raise TypeError(f"{type(self).__name__} does not define decode_levels")

    def decode(self, features):
        """Decode the list that ``encode`` returns into ``(B, K, H, W)`` logits."""
        return self.head(self.decode_levels(features)[-1])

    def forward(self, images):
        """Return ``(B, K, H, W)`` logits of ``(B, C, H, W)`` images."""
        return self.decode(self.encode(images))

    def check_input(self, images):
        """Raise InputError when this network cannot take ``images``."""
        name, (_, channels, height, width) = type(self).__name__, images.shape
        if channels != self.in_channels:
            raise InputError(f"{name}: expected {self.in_channels} image channel(s), got {channels}")
        if height % self.divisor or width % self.divisor:
            fit = [max(1, round(side / self.divisor)) * self.divisor for side in (height, width)]
            raise InputError(
                f"{name}: image height and width must be multiples of {self.divisor}, got {height}x{width}; "
                f"prepare the data with --size {fit[0]}"
            )
