"""One configuration → one trained group of networks (OKDDip and its baselines).

The package knows nothing of Ray, Optuna or MLflow. Names are loaded on first use, so that reading
a configuration (``trainer.TrainConfig``) does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config.data import DataConfig as DataConfig
    from trainer.config.strict import ConfigError as ConfigError
    from trainer.config.train import TrainConfig as TrainConfig
    from trainer.data.images import DataError as DataError
    from trainer.data.load import load_development_data as load_development_data
    from trainer.engine.report import EpochReport as EpochReport
    from trainer.engine.trainer import NonFiniteLossError as NonFiniteLossError
    from trainer.engine.trainer import Trainer as Trainer
    from trainer.errors import TrainerError as TrainerError
    from trainer.test_set import open_test as open_test

_MODULES = {
    "ConfigError": "trainer.config.strict",
    "DataConfig": "trainer.config.data",
    "DataError": "trainer.data.images",
    "EpochReport": "trainer.engine.report",
    "NonFiniteLossError": "trainer.engine.trainer",
    "TrainConfig": "trainer.config.train",
    "Trainer": "trainer.engine.trainer",
    "TrainerError": "trainer.errors",
    "load_development_data": "trainer.data.load",
    "open_test": "trainer.test_set",
}

__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker would take every misspelt name for an attribute

    def __getattr__(name: str) -> Any:
        """Import a public name from its module on first use (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'trainer' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)
