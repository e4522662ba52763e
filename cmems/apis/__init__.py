"""What the command-line tools and notebooks call."""

from cmems.apis.config import load_config
from cmems.apis.export import export
from cmems.apis.labeling import label_training_scans
from cmems.apis.model_file import publish
from cmems.apis.pick import pick
from cmems.apis.predict import predict
from cmems.apis.rounds import train_rounds
from cmems.apis.segmenter import Segmenter
from cmems.apis.testing import test
from cmems.apis.training import train

__all__ = [
    "Segmenter",
    "export",
    "label_training_scans",
    "load_config",
    "pick",
    "predict",
    "publish",
    "test",
    "train",
    "train_rounds",
]
