"""Labelled images: sources, batches and transforms.

source.py    the protocol: examples by number; `dataset.py` holds one in memory
sources/     digits, TFDS sets, folders, made-up images
prepared.py  images in memory as evaluation sees them
partition.py folders of images into parts to train, validate and test on
resident.py  small sets: on the device as bytes, batches cut inside jit
stream.py    other sets: read, decoded and transformed on the host, by Grain
batches.py   iterables of the caller's own, such as Grain datasets
channels.py  splits of another number of channels; `converted.py` has their images
given.py     from what `fit` is given to one of these
host/        transforms of single images with Pillow and NumPy
device/      transforms of batches, inside jit
"""

from cnn_jax.data.batches import Batches
from cnn_jax.data.channels import num_channels, with_channels
from cnn_jax.data.dataset import Dataset, Origin
from cnn_jax.data.device import (
    mixup_or_cutmix,
    normalize,
    one_hot_targets,
    random_crop,
    random_erasing,
    random_flip,
)
from cnn_jax.data.given import Given, as_split, given_image, is_source
from cnn_jax.data.host import ImageError, eval_transform, train_transform
from cnn_jax.data.opening import open_split
from cnn_jax.data.partition import (
    automatic_validation_share,
    partition,
    split_folder,
)
from cnn_jax.data.prefetch import device_prefetch
from cnn_jax.data.prepared import (
    channel_statistics,
    evaluated,
    is_small,
    own_size,
    pixels_of,
    prepare_pixels,
    prepared_image,
    stored,
)
from cnn_jax.data.reading import BadImage, LabelError
from cnn_jax.data.resident import (
    Arrays,
    epoch_order,
    evaluation_batch,
    locate,
    num_batches,
    pad_to_batches,
    training_batch,
)
from cnn_jax.data.source import Example, Features, Source
from cnn_jax.data.sources import Folder, load_dataset, open_source, read_source
from cnn_jax.data.stream import (
    EvalStream,
    TooManyBadImagesError,
    TrainStream,
)
from cnn_jax.data.subset import Subset, hold_out

__all__ = [
    "Arrays",
    "BadImage",
    "Batches",
    "Dataset",
    "EvalStream",
    "Example",
    "Features",
    "Folder",
    "Given",
    "ImageError",
    "LabelError",
    "Origin",
    "Source",
    "Subset",
    "TooManyBadImagesError",
    "TrainStream",
    "as_split",
    "automatic_validation_share",
    "channel_statistics",
    "device_prefetch",
    "epoch_order",
    "eval_transform",
    "evaluated",
    "evaluation_batch",
    "given_image",
    "hold_out",
    "is_small",
    "is_source",
    "load_dataset",
    "locate",
    "mixup_or_cutmix",
    "normalize",
    "num_batches",
    "num_channels",
    "one_hot_targets",
    "open_source",
    "open_split",
    "own_size",
    "pad_to_batches",
    "partition",
    "pixels_of",
    "prepare_pixels",
    "prepared_image",
    "random_crop",
    "random_erasing",
    "random_flip",
    "read_source",
    "split_folder",
    "stored",
    "train_transform",
    "training_batch",
    "with_channels",
]
