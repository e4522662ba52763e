"""What trains: networks, perturbations, pseudo-labeller and objectives together."""

from cmems.models.learners.mutual_learner import MutualLearner
from cmems.models.learners.views import StepViews

__all__ = ["MutualLearner", "StepViews"]
