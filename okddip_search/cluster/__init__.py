"""Ray: a private one or a cluster, the machine's resources, signals, and clean ends."""

from okddip_search.environment import apply_settings

apply_settings()  # before Ray is imported
