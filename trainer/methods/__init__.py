"""Training methods by name: one file a method, one line here."""

from collections.abc import Callable

from trainer.config import TrainConfig
from trainer.methods.base import Method
from trainer.methods.okddip import OKDDip

METHODS: dict[str, Callable[[TrainConfig, int], Method]] = {
    "okddip": OKDDip.from_config,
}


def build_method(config: TrainConfig, feature_dim: int) -> Method:
    """Make the method of a run for features of width D."""
    return METHODS[config.method](config, feature_dim)
