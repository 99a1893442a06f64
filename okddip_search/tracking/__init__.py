"""A search, shown in MLflow: derived from its directory, and sent by whoever is at work."""
