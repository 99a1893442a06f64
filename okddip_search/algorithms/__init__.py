"""The choices of a search: samplers, pruners, screening, and their seeds."""
