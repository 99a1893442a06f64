"""One configuration → one trained group of networks (OKDDip and its rivals).

The package knows nothing of Ray, Optuna or MLflow. Names are loaded on first use, so that reading
a configuration (``trainer.TrainConfig``) does not import torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "ConfigError": "trainer.config.strict",
    "DataConfig": "trainer.config.data",
    "TrainConfig": "trainer.config.train",
    "EpochReport": "trainer.engine.report",
    "NonFiniteLossError": "trainer.engine.trainer",
    "Trainer": "trainer.engine.trainer",
    "load_development_data": "trainer.data.load",
    "open_test": "trainer.test_set",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'trainer' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
