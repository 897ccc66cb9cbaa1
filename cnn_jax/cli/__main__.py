"""Lets `python -m cnn_jax.cli` stand for `cnn-jax`."""

import sys

from cnn_jax.cli import main

sys.exit(main())
