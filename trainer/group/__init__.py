"""A group of networks, and the ways to compute it."""
