"""`evaluate`: weights, a split and a recipe for images, put together and scored."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import jax
import numpy as np

from cnn_jax import data, files, messages, trees
from cnn_jax.data.sources.folder import FOLDER
from cnn_jax.evaluation.classes import ClassMap, match_classes
from cnn_jax.evaluation.scores import Scores
from cnn_jax.evaluation.split import num_batches, score_split
from cnn_jax.models import model_info
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained import LoadedNetwork, load_network
from cnn_jax.pretrained.files import hub
from cnn_jax.report.environment import (
    Environment,
    command_line,
    describe_environment,
    public_text,
)
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.images import ImageFormat, pixel_dtype


@dataclasses.dataclass(frozen=True)
class Published:
    """A published accuracy.

    Attributes:
      top1: As a fraction.
      source: Who published it, and of which data.
    """

    top1: float
    source: str


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of weights on a split, and all that they follow from.

    Attributes:
      weights: What was evaluated, as it was named.
      sha256: Of the file of weights; None where it is no single file.
      digest: `trees.digest` of the variables where there is no such file; else None.
      model: The model's name.
      dataset: The dataset's name.
      split: The split's.
      fingerprint: The split's, see `data.Source`.
      data_channels: The channels of its images, before they get the network's.
      preprocessing: The recipe that the images went through.
      scores: The scores.
      bad_images: The images that could not be read; a folder's by their place in it.
      published: The accuracy that the model's registry entry quotes, if the weights are
        known to be those published for ImageNet, and the data are of its classes.
      environment: Versions, hardware and date.
      command: The command of this process.
    """

    weights: str
    sha256: str | None
    digest: str | None
    model: str
    dataset: str
    split: str
    fingerprint: str
    data_channels: int
    preprocessing: Preprocessing
    scores: Scores
    bad_images: tuple[data.BadImage, ...]
    published: Published | None
    environment: Environment
    command: str


def evaluate(
    weights: str | os.PathLike[str],
    *,
    dataset: str | data.Source,
    split: str | None = None,
    model: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    max_bad_images: int = 0,
    num_mistakes: int = 12,
    show_progress: bool = False,
) -> Evaluation:
    """Scores weights on a split, with images as the weights want them.

    Args:
      weights: What `load_pretrained` reads: a file, a name on the Hub or of a package,
        or a directory that `cnn-jax convert` or a training run wrote.
      dataset: The dataset's name, see `data.open_source`; or a split that is open.
      split: Its split; None for `"test"`, or all images of a folder without splits.
      model: The model's name; None takes the one that weights of this project name.
      num_classes: How many classes the weights are for; None takes what they say, or
        the model's usual number.
      class_names: The names of the logits; None takes what the weights say, or
        ImageNet's for weights that are known to be published for it.
      data_dir: The directory of TFDS sets.
      batch_size: The most images that are classified at once, over all devices.
      num_workers: Processes that decode images; 0 for threads of this one.
      max_bad_images: How many images may be unreadable; they are left out.
      num_mistakes: How many of the surest mistakes to keep.
      show_progress: Whether to show a bar on standard error, if that is a terminal.

    Returns:
      The scores. The data's classes and the weights' are matched by their names where
      both are known, and folders named by WordNet ids are ImageNet's classes.

    Warns:
      UserWarning: If mean and deviation are a guess, see `preprocessing_of`.

    Raises:
      FileNotFoundError: If there are no such weights or data.
      ImportError: If what reads such weights is not installed.
      ValueError: If the data's classes are not those of the weights, more images are
        unreadable than allowed, there is no such model, or the weights do not fit it.
      OSError: If the data cannot be read.
    """
    config = TrainConfig(
        batch_size=batch_size, num_workers=num_workers, max_bad_images=max_bad_images
    )
    config.validate()
    with messages.progress(shown=show_progress) as bar:
        task = bar.add_task(messages.printable(f"reading {weights}"), total=None)
        network = load_network(
            weights, name=model, num_classes=num_classes, class_names=class_names
        )
        preprocessing = network.preprocessing
        source = dataset
        if isinstance(source, str):
            bar.update(task, description=messages.printable(f"opening {dataset}"))
            source = _open(source, split, data_dir)
        _check_images(source, network)
        given, data_channels = source, source.features.image_shape[2]
        source = data.with_channels(source, preprocessing.channels)
        classes = match_classes(
            source.class_names,
            network.class_names,
            network.model.num_classes,
            data=f"{source.name}, split {source.split!r}",
        )
        config = _with_batches_for(config, len(source))
        bar.update(task, total=num_batches(source, config))
        scores, bad_images = score_split(
            network.model,
            network.variables,
            source,
            ImageFormat.of(preprocessing, network.dtype),
            config,
            classes,
            num_mistakes=num_mistakes,
            advance=lambda done, text: bar.update(
                task, completed=done, description=text
            ),
        )
        bar.update(task, description="hashing the data")
        fingerprint = given.fingerprint
    file = network.report.provenance.file
    sha256 = files.sha256(file) if file is not None and file.is_file() else None
    return Evaluation(
        weights=public_text(os.fspath(weights)),
        sha256=sha256,
        digest=trees.digest(network.variables) if sha256 is None else None,
        model=network.name,
        dataset=public_text(source.name),
        split=source.split,
        fingerprint=fingerprint,
        data_channels=data_channels,
        preprocessing=preprocessing,
        scores=scores,
        bad_images=tuple(_placed(image, source.name) for image in bad_images),
        published=_published(network, classes),
        environment=describe_environment(),
        command=command_line(),
    )


def _open(
    dataset: str, split: str | None, data_dir: str | os.PathLike[str] | None
) -> data.Source:
    """Opens a split whose images are read on demand: memory does not grow with it."""
    try:
        return data.open_source(dataset, split or "test", data_dir=data_dir)
    except FileNotFoundError:
        if split is not None or not dataset.startswith(FOLDER):
            raise
        try:
            whole = data.Folder(dataset.removeprefix(FOLDER), "train")
        except FileNotFoundError:
            whole = None
        if whole is None or whole.directory != whole.root:  # that has splits
            raise
        return whole


def _check_images(source: data.Source, network: LoadedNetwork) -> None:
    """Raises ValueError unless both are for pixels, or for floating-point images."""
    if pixel_dtype(source) == np.uint8:
        network.normalization(instead="evaluate them on such images")
    elif network.preprocessing.mean is not None:
        raise ValueError(
            f"{source.name}, split {source.split!r}: got floating-point images for "
            "weights that normalise pixels, expected uint8."
        )


def _with_batches_for(config: TrainConfig, num_examples: int) -> TrainConfig:
    """Returns the configuration with batches that are not much larger than a split."""
    devices = jax.device_count()
    enough = -(-num_examples // devices) * devices
    return dataclasses.replace(config, batch_size=min(config.batch_size, enough))


def _placed(image: data.BadImage, dataset: str) -> data.BadImage:
    root = f"{dataset.removeprefix(FOLDER)}{os.sep}"
    return image._replace(origin=image.origin.removeprefix(root))


def _published(network: LoadedNetwork, classes: ClassMap) -> Published | None:
    """Returns the registry's accuracy where it is that of these very weights.

    Of a repository on the Hub it is not known which of several weights it has.
    """
    info, report = model_info(network.name), network.report
    is_known = report.known_class_names(len(classes.names)) is not None
    if info.top1 is None or not (is_known and classes.is_imagenet):
        return None
    # A library has several files for a model, with other scores and other images.
    is_quoted = report.source == "efficientnet_pytorch" or (
        "torchvision" in info.top1_source
        and report.source == "torchvision"
        and network.preprocessing == info.preprocessing
    )
    if report.provenance.location.startswith(hub.PREFIX) or not is_quoted:
        return None
    return Published(info.top1 / 100, info.top1_source)
