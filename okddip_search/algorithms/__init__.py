"""What decides in a search: samplers, pruners, screening, and their seeds."""
