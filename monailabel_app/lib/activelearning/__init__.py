"""Which image to label next."""
