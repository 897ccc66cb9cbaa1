"""The features of a whole split: computed once, then read from a file.

A file's name is the sha256 of all that features follow from: the weights, the program
that computes them (the network's, as lowered, so that a field of the model or another
jax counts as well), the dataset's fingerprint and what is done to images before. It is
written whole or not at all, and what is read is compared with its own digest; a file
that does not agree is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from cnn_jax import data, messages, sharding, trees
from cnn_jax.files import FileError, open_regular, reading, whole_file
from cnn_jax.layers import abstract_variables
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.channels import input_channels
from cnn_jax.training.run.feeds import make_evaluation
from cnn_jax.training.run.images import ImageFormat, image_format
from cnn_jax.transfer.probe import extract_features


class Features(NamedTuple):
    """The inputs of the last layer, for a split.

    Attributes:
      features: float32 `(n, d)`, in the order of the split.
      labels: int32 `(n,)`.
      was_cached: Whether they were read from a file.
    """

    features: np.ndarray
    labels: np.ndarray
    was_cached: bool


def split_features(
    model: Any,
    variables: Mapping[str, Any],
    config: TrainConfig,
    train: data.Source,
    split: data.Source,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    images: ImageFormat | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Features:
    """Returns the features of a split, images as evaluation sees them.

    Args:
      model: A linen module with `num_classes`; its last layer is not computed.
      variables: Its variables; those of a last layer are not read.
      config: What says how images are read and normalised.
      train: The training split, whose statistics may be what is normalised with.
      split: The split.
      cache_dir: Where files of features lie, made if need be; None for nowhere.
      mesh: The devices; when None, all of them on `config.mesh`.
      images: How images are prepared; None for what `image_format` returns.
      advance: Is told how many images more have their features.
    """
    mesh = sharding.make_mesh(specification=config.mesh) if mesh is None else mesh
    backbone = model.clone(num_classes=0)
    if images is None:
        channels = input_channels(config, model, train.features.image_shape, variables)
        images = image_format(config, data.with_channels(train, channels))
    image = images.specification
    variables = _backbone_variables(backbone, variables, image)
    path = None
    if cache_dir is not None:
        about = {
            "weights": trees.digest(variables),
            "program": _program_digest(backbone, variables, image),
            "dataset": split.fingerprint,
            "resized_from": _origin_fingerprint(split),
            "preprocessing": {**images.to_dict(), "dtype": str(image.dtype)},
        }
        text = json.dumps(about, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        path = pathlib.Path(cache_dir).expanduser() / f"{name}.npz"
        found = _read(path)
        if found is not None:
            advance(len(split))
            return Features(*found, was_cached=True)

    feed = make_evaluation(split, config, mesh, images)
    labels: list[np.ndarray] = []

    def prepared() -> Iterator[jax.Array]:
        for batch in feed.batches():
            counts = np.asarray(batch["mask"]) > 0
            labels.append(np.asarray(batch["label"])[counts])
            image = prepare_batch(batch["image"])
            yield image if counts.all() else image[np.flatnonzero(counts)]
            advance(int(counts.sum()))

    prepare_batch = jax.jit(images.prepare)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    features = extract_features(backbone, variables, prepared())
    found = features, np.concatenate(labels).astype(np.int32)
    if path is not None:
        _write(path, *found, text)
    return Features(*found, was_cached=False)


def _backbone_variables(
    backbone: Any, variables: Mapping[str, Any], image: jax.ShapeDtypeStruct
) -> Any:
    """Returns the variables without those of the head."""
    shapes = abstract_variables(backbone, image)
    return trees.arrange_like(shapes, variables, name="variables", allow_unknown=True)


def _origin_fingerprint(split: data.Source) -> str | None:
    """Returns that of the images which are read again to be evaluated."""
    origin = split.origin if isinstance(split, data.Dataset) else None
    return None if origin is None else origin.source.fingerprint


def _program_digest(backbone: Any, variables: Any, image: jax.ShapeDtypeStruct) -> str:
    def apply(variables, image):
        return backbone.apply(variables, image, train=False)

    text = jax.jit(apply).lower(variables, image).as_text()
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the arrays of a sound file, or None."""
    if not path.exists():
        return None
    try:
        with open_regular(path) as opened, reading(path, "a file of features"):
            _check_stored(path, opened)
            # NumPy leaves what it cannot read open, unless the file is another's.
            with np.load(opened, allow_pickle=False) as file:
                features, labels = file["features"], file["labels"]
                digest = str(file["digest"])
        is_sound = digest == _digest(features, labels)
    except (FileError, OSError):
        is_sound = False
    if not is_sound:
        messages.warn(f"{path} is damaged and is made again.")
        return None
    return features, labels


def _check_stored(path: pathlib.Path, opened: IO[bytes]) -> None:
    """Checks that what is unpacked is no longer than the file."""
    with zipfile.ZipFile(opened) as members:
        stored = all(
            each.compress_type == zipfile.ZIP_STORED and each.flag_bits & 1 == 0
            for each in members.infolist()
        )
        total = sum(each.file_size for each in members.infolist())
    if not stored or total > os.fstat(opened.fileno()).st_size:
        raise FileError(f"{path}: got compressed arrays, expected them as written.")
    opened.seek(0)


def _write(
    path: pathlib.Path, features: np.ndarray, labels: np.ndarray, about: str
) -> None:
    """Writes a file whole or not at all, whoever else writes the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, shared=True) as file:
        np.savez(
            file,
            features=features,
            labels=labels,
            digest=np.array(_digest(features, labels)),
            about=np.array(about),
        )


def _digest(features: np.ndarray, labels: np.ndarray) -> str:
    return trees.digest({"features": features, "labels": labels})
