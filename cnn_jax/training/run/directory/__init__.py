"""The directory of a run: its files, and checkpoints that it continues from exactly."""
