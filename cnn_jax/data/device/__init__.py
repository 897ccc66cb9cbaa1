"""Image transforms on the device: pure functions of a key and a batch, made for jit.

The random ones that only move pixels work on any dtype, so they run on uint8, before
`normalize` makes the images four times as large.
"""

from cnn_jax.data.device.basic import normalize, random_crop, random_flip
from cnn_jax.data.device.erase import random_erasing
from cnn_jax.data.device.mix import cutmix, mixup, mixup_or_cutmix, one_hot_targets

__all__ = [
    "cutmix",
    "mixup",
    "mixup_or_cutmix",
    "normalize",
    "one_hot_targets",
    "random_crop",
    "random_erasing",
    "random_flip",
]
