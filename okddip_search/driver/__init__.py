"""A study being run: Ray Tune's adapter, the bridge to Optuna, and a session's life."""
