"""Weights trained elsewhere, under the names and in the layouts used here."""

from cnn_jax.pretrained.load import ConversionReport as ConversionReport
from cnn_jax.pretrained.load import load_pretrained as load_pretrained
