"""Programs that time, verify and measure training, each in a process of its own."""
