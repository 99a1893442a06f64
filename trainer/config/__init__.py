"""What a run is configured with: strict models, free of torch."""
