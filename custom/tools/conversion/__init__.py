"""Checkpoints and prompt banks of other codes."""
