"""What runs a config: the loop, the runner, and what acts around each step."""

from cmems.engine.checkpoint import LastBestCheckpointHook
from cmems.engine.logging import TrainLogHook
from cmems.engine.loop import MutualLearningLoop
from cmems.engine.norm import PreciseNormHook
from cmems.engine.precision import AutocastOptimWrapper
from cmems.engine.runner import SegmentationRunner

__all__ = [
    "AutocastOptimWrapper",
    "LastBestCheckpointHook",
    "MutualLearningLoop",
    "PreciseNormHook",
    "SegmentationRunner",
    "TrainLogHook",
]
