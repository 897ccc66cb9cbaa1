"""Checkpoints when processes are killed and files are damaged."""
