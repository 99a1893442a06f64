"""Images: where they come from, how they are split, and the batches made of them."""
