"""Networks, perturbations, pseudo-labels, losses and the learner that joins them."""

from cmems.models import backbones, learners, losses, perturbations, postprocessing, pseudo_labelers

__all__ = ["backbones", "learners", "losses", "perturbations", "postprocessing", "pseudo_labelers"]
