"""Using a trained network for another task."""
