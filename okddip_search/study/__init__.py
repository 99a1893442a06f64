"""The Optuna study: its storage, its trials, and its sessions."""
