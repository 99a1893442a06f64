"""Training methods, one file each; their names stand in ``trainer.registry``."""

from trainer.config.train import TrainConfig
from trainer.methods.base import Method
from trainer.models import Architecture
from trainer.registry import METHODS, load_object

__all__ = ["Method", "build_method"]


def build_method(config: TrainConfig, architecture: Architecture) -> Method:
    """Make the method of a run."""
    method: Method = load_object(METHODS[config.method].import_path)(config, architecture)
    return method
