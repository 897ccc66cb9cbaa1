"""What becomes of checkpoints when processes are killed and files are damaged."""
