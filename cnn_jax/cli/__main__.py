"""Runs the command line as `python -m cnn_jax.cli`."""

import sys

from cnn_jax.cli import main

sys.exit(main())
