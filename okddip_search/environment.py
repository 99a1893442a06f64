"""Settings of a process of ours, made before it imports Ray or MLflow and before it writes a file.

Importing ``okddip_search`` itself changes nothing; the rooms that import Ray and MLflow apply the
settings, and whoever starts a command or a worker protects its files.
"""

import os

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_AUTH_MODE": "token",  # Ray's ports listen on all interfaces
    "RAY_AIR_NEW_OUTPUT": "0",  # we draw the progress
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU sees none
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Ray and MLflow read these when they are first imported, in the driver and in its workers."""


def apply_settings() -> None:
    """Set the environment variables in ``SETTINGS``; a value that the user has set wins."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def protect_files() -> int:
    """Let nobody but the user and their group write to files made from now on.

    Returns:
        The umask before, for those who restore it.
    """
    before = os.umask(0o077)
    os.umask(before | 0o002)
    return before
