"""Training tasks: fine-tuning on finished labels, and what is recorded of it."""
