"""A study being run: Ray Tune's adapter, the bridge to Optuna, and a session's life."""

from okddip_search.environment import apply_settings

apply_settings()  # before Ray is imported
