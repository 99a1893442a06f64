"""The configuration of a run: strict models, free of torch."""
