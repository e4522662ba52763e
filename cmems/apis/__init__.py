"""What the command-line tools and notebooks call."""

from cmems.apis.config import load_config
from cmems.apis.predict import predict
from cmems.apis.run import test, train

__all__ = ["load_config", "predict", "test", "train"]
