"""The Optuna study: its storage, its trials, and what is told about them."""
