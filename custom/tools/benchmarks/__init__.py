"""What the comparisons share."""
