"""Files, tensors, YAML and text: what any room may need."""
