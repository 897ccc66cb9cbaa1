"""Transforms of single images on the host, with Pillow and NumPy.

A transform takes a Pillow image and a NumPy generator and returns an image. They are
frozen dataclasses: comparable, printable, and sent to worker processes as they are.
"""

from cnn_jax.data.host.color import ColorJitter, RandomErasing
from cnn_jax.data.host.crop import CenterCrop, RandomFlip, RandomResizedCrop
from cnn_jax.data.host.decode import ImageError, decode_image, open_image
from cnn_jax.data.host.learned import AutoAugment, RandAugment
from cnn_jax.data.host.policies import (
    POLICIES,
    Compose,
    eval_transform,
    train_transform,
)

__all__ = [
    "POLICIES",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ImageError",
    "RandAugment",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "decode_image",
    "eval_transform",
    "open_image",
    "train_transform",
]
