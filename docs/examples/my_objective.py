"""Entropy minimisation on unlabelled images (Grandvalet & Bengio 2004): a network answers to its own certainty."""

from cmems.models.losses import Objective
from cmems.registry import LOSSES


@LOSSES.register_module()
class EntropyMinimisation(Objective):
    """Mean entropy of each network's prediction on its own weak view, summed over the networks.

    Args:
        source (str): Where the images come from.
        name (str): Key in the log.
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every objective.
    """

    def __init__(self, source="unlabeled", name="loss_entropy", **schedule):
        super().__init__(name, source, **schedule)

    def value(self, step):
        """Return the term before its factor."""
        total = 0
        for m in range(step.num_networks):
            log_p = step.logits(m, self.source, "weak", owner=m).float().log_softmax(1)
            total = total - (log_p.exp() * log_p).sum(1).mean()
        return total
