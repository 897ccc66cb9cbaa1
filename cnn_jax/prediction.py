"""Classes of image files by a model whose weights are in a file: `cnn-jax predict`.

Images are prepared as the model was evaluated: decoded, brought to the input's size,
and normalised, by `cnn_jax.pretrained.preprocessing_of`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, PngImagePlugin

from cnn_jax.analysis.overlay import overlay
from cnn_jax.analysis.saliency import grad_cam
from cnn_jax.data.channels import RGB
from cnn_jax.data.device import normalize
from cnn_jax.files import FileError, check_output, open_regular, whole_file
from cnn_jax.messages import printable
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained import load_network
from cnn_jax.report.captions import with_caption
from cnn_jax.report.images import contact_sheet

_PICTURE_MARK = "cnn-jax predict"
"""The program that a picture's file names as its maker; such a file may be replaced."""

_PICTURE_SIDE = 320
"""About how wide an image is drawn in an annotated picture."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
      image: The file's path.
      classes: The most probable classes, the most probable first.
      names: Their names.
      probabilities: Their probabilities, after softmax.
      picture: Where the annotated picture was written, or None.
      is_grey: Whether the network reads three channels and the image's are equal: a
        grey image's, which is repeated.
    """

    image: str
    classes: tuple[int, ...]
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    picture: str | None = None
    is_grey: bool = False


def predict(
    weights: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    model: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    top: int = 5,
    cam_directory: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
) -> list[Prediction]:
    """Classifies image files, one after the other.

    Args:
      weights: What `load_pretrained` reads: a file, a name on the Hub or of a package,
        or a directory that `cnn-jax convert` or a training run wrote.
      images: Paths of image files in one of `cnn_jax.data.host.decode.FORMATS`; at
        least one.
      model: The model's name; None takes the one that a checkpoint names.
      num_classes: How many classes the weights are for; None takes what a checkpoint
        says, the number of names, or the model's usual number.
      class_names: One for each class; None takes what a checkpoint says, or ImageNet's
        for weights that are known to be published for it, or `class 0` and so on.
      top: How many classes to name, at most all.
      cam_directory: Where to write an annotated picture of each image: itself, and a
        Grad-CAM map of the most probable class over it, `IMAGE_cam.png`. It is made if
        need be. A picture from before is replaced, but no other file.
      endpoint: The activations that the map is made of; None for the last that have
        positions.

    Returns:
      One prediction for each image, in order.

    Warns:
      UserWarning: If a run does not say how it normalised images, so that the model's
        entry in the registry is a guess.
      DamagedCheckpointWarning: If a newer checkpoint than the one taken is damaged.

    Raises:
      FileNotFoundError: If there are no such weights.
      ImportError: If what reads such weights is not installed.
      ValueError: If an image cannot be read (the message names all such), there is no
        such model or endpoint, the weights do not fit, or a picture would replace a
        file that is not one.
      OSError: If a picture cannot be written.
    """
    if not images or top < 1:
        raise ValueError(
            f"predict: got {len(images)} images and top {top}, expected at least one "
            "of each."
        )
    places = _picture_paths(images, cam_directory)
    _check_pictures(places, images)
    network = load_network(
        weights, name=model, num_classes=num_classes, class_names=class_names
    )
    if network.preprocessing.channels not in (1, 3):
        raise ValueError(
            f"{weights}: got weights for images of {network.preprocessing.channels} "
            "channels; image files have 1 or 3, so that cnn_jax.load_pretrained and "
            "the model's apply are what classifies such arrays."
        )
    mean, std = network.normalization(
        instead="classify with cnn_jax.load_pretrained and the model's apply"
    )
    crops = _read_images(images, network.preprocessing)
    num_classes = network.model.num_classes
    names = network.class_names or [f"class {index}" for index in range(num_classes)]

    @jax.jit
    def classify(variables, pixels):
        x = normalize(pixels, mean, std, network.dtype)
        logits: Any = network.model.apply(variables, x, train=False)
        probabilities = jax.nn.softmax(logits)
        if cam_directory is None:
            return probabilities, None
        return probabilities, grad_cam(network.model, variables, x, endpoint=endpoint)

    predictions = []
    for path, crop, place in zip(images, crops, places, strict=True):
        found, maps = jax.device_get(classify(network.variables, crop[None]))
        chosen = np.argsort(-found[0], kind="stable")[:top]
        prediction = Prediction(
            image=os.fspath(path),
            classes=tuple(map(int, chosen)),
            names=tuple(names[index] for index in chosen),
            probabilities=tuple(float(found[0, index]) for index in chosen),
            picture=None if place is None else str(place),
            is_grey=crop.shape[-1] == RGB and bool((crop == crop[..., :1]).all()),
        )
        if place is not None:
            _write_picture(place, annotated(crop, maps[0], prediction))
        predictions.append(prediction)
    return predictions


def annotated(image: np.ndarray, cam: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Returns an image beside its map, with the classes below.

    Args:
      image: uint8 `(height, width, c)`, one channel or three.
      cam: The map `(h, w)`, at least 0.
      prediction: What is written below.

    Returns:
      uint8 `(h', w', 3)`.
    """
    scale = max(1, round(_PICTURE_SIDE / image.shape[1]))
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    covered = overlay(large[None], cam[None])[0]
    sheet = contact_sheet([np.broadcast_to(large, covered.shape), covered], columns=2)
    named = zip(prediction.names, prediction.probabilities, strict=True)
    lines = [pathlib.Path(prediction.image).name]
    lines += [f"{probability:6.1%}  {name}" for name, probability in named]
    lines = list(map(printable, lines))
    return with_caption(sheet, "\n".join(lines))


def _read_images(
    paths: Sequence[str | os.PathLike[str]], preprocessing: Preprocessing
) -> list[np.ndarray]:
    """Returns each image as uint8 of the input's shape."""
    from cnn_jax.data import ImageError, prepared_image

    crops, problems = [], []
    for path in paths:
        try:
            crops.append(prepared_image(path, preprocessing))
        except ImageError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}.")
    if problems:
        raise ValueError("\n  ".join([f"{len(problems)} bad images:", *problems]))
    return crops


def _picture_paths(
    images: Sequence[str | os.PathLike[str]], directory: str | os.PathLike[str] | None
) -> list[pathlib.Path | None]:
    """Returns a path for each picture, after its image's name and all different."""
    if directory is None:
        return [None] * len(images)
    taken: set[str] = set()
    paths: list[pathlib.Path | None] = []
    for image in images:
        stem = name = pathlib.Path(image).stem
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        paths.append(pathlib.Path(directory) / f"{name}_cam.png")
    return paths


def _check_pictures(
    places: Sequence[pathlib.Path | None], inputs: Sequence[str | os.PathLike[str]]
) -> None:
    """Checks that no picture takes the place of a file that is no picture of ours."""
    for place in places:
        if place is None or not os.path.lexists(place):
            continue
        check_output(place, inputs)
        if not _is_picture(place):
            raise FileError(
                f"{place}: got a file that `cnn-jax predict` did not write where it is "
                "to write a picture; move it, or choose another directory (--cam)."
            )


def _is_picture(place: pathlib.Path) -> bool:
    if place.is_symlink():
        return False
    try:
        with open_regular(place) as file, Image.open(file, formats=["PNG"]) as image:
            return image.info.get("Software") == _PICTURE_MARK
    except Exception:  # whatever Pillow raises over another file
        return False


def _write_picture(place: pathlib.Path, pixels: np.ndarray) -> None:
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", _PICTURE_MARK)
    place.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(place, shared=True) as file:
        Image.fromarray(pixels).save(file, "PNG", pnginfo=mark)
