"""The driver: a search space becomes an Optuna study, run by Ray Tune and shown by MLflow."""

__version__ = "0.1.0"
