"""Labelled images: where they come from, how they become batches, how they are changed.

source.py    the protocol: examples by number; `dataset.py` holds one in memory
sources/     digits, TFDS sets, folders, made-up images
resident.py  small sets: on the device as bytes, batches cut inside jit
host/        transforms of single images with Pillow and NumPy
device/      transforms of batches, inside jit
"""

from cnn_jax.data.dataset import Dataset
from cnn_jax.data.device import normalize, random_crop, random_flip
from cnn_jax.data.resident import (
    epoch_order,
    evaluation_batch,
    locate,
    num_batches,
    pad_to_batches,
    training_batch,
)
from cnn_jax.data.source import Example, Features, Source
from cnn_jax.data.sources import load_dataset

__all__ = [
    "Dataset",
    "Example",
    "Features",
    "Source",
    "epoch_order",
    "evaluation_batch",
    "load_dataset",
    "locate",
    "normalize",
    "num_batches",
    "pad_to_batches",
    "random_crop",
    "random_flip",
    "training_batch",
]
