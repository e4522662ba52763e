"""DSC and HD95 per volume under named conventions."""

from cmems.evaluation.conventions import PRESETS, Convention, get_convention
from cmems.evaluation.metrics import DSC, HD95
from cmems.evaluation.scores import hd95, score_volume

__all__ = ["DSC", "HD95", "PRESETS", "Convention", "get_convention", "hd95", "score_volume"]
