"""The epoch loop, and everything around one training run."""
