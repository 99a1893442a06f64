"""The driver: a search space becomes an Optuna study, run by Ray Tune and shown by MLflow.

Ray and MLflow read these settings when they are first imported, in the driver and in its workers;
a user's own value wins.
"""

import os

__version__ = "0.1.0"

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_AUTH_MODE": "token",  # Ray's ports listen on all interfaces
    "RAY_AIR_NEW_OUTPUT": "0",  # we draw the progress
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU sees none
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we stop cleanly ourselves
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

# Nothing that the driver, its workers or their libraries write is for strangers to change.
os.umask(os.umask(0o077) | 0o002)
