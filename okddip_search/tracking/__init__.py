"""A search mirrored in MLflow: derived from its directory, and sent by a driver or ``sync``."""
