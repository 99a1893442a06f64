"""Samplers, pruners and seeds: what chooses and gives up configurations."""
