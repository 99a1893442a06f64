"""The network that is deployed: its files, its exports and its cost."""
