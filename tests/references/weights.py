"""Weights and images by formula, under which every block of a network matters.

Trained weights would prove as much, but would have to be fetched; freshly initialised
ones prove little: layer scales of 1e-6 and last normalisations of 0 hide whole blocks.
"""

import zlib

import numpy as np

VARIANCES = ("running_var", "moving_variance")
OFFSETS = ("bias", "beta", "running_mean", "moving_mean")


def weight(name, shape, *, gain=1.0, layout="torch"):
    """Returns the array that a reference's parameter or statistic is filled with.

    Args:
      name: Its name in the reference; the only source of randomness.
      shape: Its shape in the reference.
      gain: The variance that a filter gives to a sum over unit inputs.
      layout: Where filters have their outputs: `"torch"` in front, `"keras"` behind.

    Returns:
      float64: scales, layer scales and variances uniform in [0.5, 1.5], biases and
      means in [-0.2, 0.2], filters normal with variance `gain / fan_in`.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.replace("/", ".").rpartition(".")[-1]
    if leaf in OFFSETS:
        return generator.uniform(-0.2, 0.2, shape)
    if leaf in VARIANCES or max(shape) == np.prod(shape):
        return generator.uniform(0.5, 1.5, shape)
    if layout == "torch":
        fan_in = np.prod(shape[1:])
    else:
        # A depthwise filter (h, w, c, 1) sums over its window alone.
        fan_in = np.prod(shape[:2] if shape[-1] == 1 else shape[:-1])
    values = generator.standard_normal(shape, np.float32)
    return values.astype(np.float64) * np.sqrt(gain / fan_in)


def images(size, channels, *, count=2):
    """Returns `count` normalised images `(count, size, size, channels)`, float64."""
    return np.random.default_rng(0).standard_normal((count, size, size, channels))


def labels(num_classes, *, count=2):
    """Returns `count` class numbers, int32."""
    return np.arange(3, 3 + 4 * count, 4, dtype=np.int32) % num_classes
