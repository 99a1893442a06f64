"""A space file, from its text to a checked search space."""
