"""Ray: a private one or a cluster, the machine's resources, signals, and clean ends."""
