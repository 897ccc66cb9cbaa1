"""Datasets prepared for TFDS from their publishers' files, without TensorFlow.

    cnn-jax prepare cifar10 --from DIRECTORY_WITH_THE_ARCHIVE

A `Recipe` says which files a set is made from and how records are read out of them, in
shards that processes work on side by side; `prepare` checks, writes and commits. What
it leaves is read by `tfds.data_source` and by `cnn_jax.data.open_source`.
"""

from cnn_jax.data.prepare.archives import ArchiveError
from cnn_jax.data.prepare.writing import RECIPES, Prepared, PrepareError, prepare

__all__ = ["RECIPES", "ArchiveError", "PrepareError", "Prepared", "prepare"]
