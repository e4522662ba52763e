"""DSC, Jaccard, HD95 and ASSD per volume under named conventions."""

from cmems.evaluation.conventions import PRESETS, Convention, get_convention
from cmems.evaluation.metrics import ASSD, DSC, HD95, Jaccard
from cmems.evaluation.scores import assd, hd95, score_volume

__all__ = ["ASSD", "DSC", "HD95", "PRESETS", "Convention", "Jaccard", "assd", "get_convention", "hd95", "score_volume"]
