"""Image transforms on the device: pure functions of a key and a batch, made for jit.

The random ones that only move pixels work on any dtype, so they run on uint8, before
`normalize` makes the images four times as large.
"""

from cnn_jax.data.device.basic import normalize, random_crop, random_flip

__all__ = ["normalize", "random_crop", "random_flip"]
