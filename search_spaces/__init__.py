"""Ready search spaces (package data): one commented YAML file each."""
