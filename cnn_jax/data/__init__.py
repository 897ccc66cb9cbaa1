"""Datasets in memory, their batches on the device, and what is done to them there."""

from cnn_jax.data.batches import (
    epoch_order,
    evaluation_batch,
    locate,
    num_batches,
    pad_to_batches,
    training_batch,
)
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.sources import load_dataset
from cnn_jax.data.transforms import normalize, random_crop, random_flip

__all__ = [
    "Dataset",
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
