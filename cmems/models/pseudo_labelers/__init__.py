"""Pseudo-labels: from a network's logits to targets another network answers to."""

from cmems.models.pseudo_labelers.confidence import ConfidenceThreshold, PseudoLabel

__all__ = ["ConfidenceThreshold", "PseudoLabel"]
