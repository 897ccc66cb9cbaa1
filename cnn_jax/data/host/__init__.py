"""Image transforms on the host: NumPy and Pillow, one image at a time."""
