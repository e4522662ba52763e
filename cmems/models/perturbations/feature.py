"""Feature perturbations F: between the encoder and the decoder."""

from cmems.models.perturbations.base import Perturbation, check_draws
from cmems.registry import PERTURBATIONS


@PERTURBATIONS.register_module()
class ChannelDropout(Perturbation):
    """Drop whole channels on every level, scaling the rest up (Eq. 7; ``Dropout2d`` whose draws can be replayed).

    Args:
        probability (float): Probability that a channel of a sample is dropped (paper: 0.5); at 1 all are 0.
    """

    role = "feature"

    def __init__(self, probability=0.5):
        self.probability = probability
        check_draws(self, probabilities=["probability"])

    def __call__(self, features, stream):
        """Perturb a list of ``(B, C, H, W)`` maps; returns a list of the same shapes."""
        return [self.apply(f, ~stream.bernoulli(f.shape[:2], self.probability)) for f in features]

    def apply(self, feature, kept):
        """Keep the channels of a ``(B, C, H, W)`` map where the ``(B, C)`` bool ``kept`` says so."""
        return feature * (kept.to(feature.dtype) / ((1 - self.probability) or 1))[:, :, None, None]
