"""`cnn-jax predict`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from cnn_jax.cli.usage import (
    WEIGHTS,
    UsageError,
    add_model,
    class_names_of,
    print_json,
    working,
)
from cnn_jax.report.table import Column, Table, print_table
from cnn_jax.report.words import count

HELP = "Classify image files, and show where a network looks."

MAX_NAME = 32
"""The longest name of an image that stands in the table with its folder."""


class _Weights(argparse.Action):
    """`--weights WEIGHTS`, after which all arguments by position are images."""

    def __init__(self, *, positionals: Sequence[argparse.Action], **options: Any):
        super().__init__(**options)
        self.positionals = positionals

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        for action in self.positionals:
            action.required = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = (
        "%(prog)s WEIGHTS IMAGE [IMAGE ...] [options]\n"
        "       %(prog)s --weights WEIGHTS IMAGE [IMAGE ...] [options]"
    )
    weights = parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help=WEIGHTS,
    )
    images = parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF files",
    )
    parser.add_argument(
        "--weights",
        action=_Weights,
        positionals=(weights, images),
        dest="named_weights",
        metavar="WEIGHTS",
        help="the same as WEIGHTS in front of the images",
    )
    add_model(parser)
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="COUNT",
        help="how many classes to name (default: 5)",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="the names of the classes, one a line; `imagenet` for those of ImageNet, "
        "which published weights have by themselves",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of classes, if neither WEIGHTS, the model nor --classes "
        "says it",
    )
    parser.add_argument(
        "--cam",
        nargs="?",
        const=".",
        metavar="DIRECTORY",
        help="write a picture of each image with the Grad-CAM map of its first class, "
        "IMAGE_cam.png, into the directory, the current one if none is given (write "
        "a bare --cam last)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="NAME",
        help="the activations to make the map of; the last ones if not given",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.allocator import keep_memory
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.prediction import predict

    weights, images = options.weights, options.images
    if options.named_weights is not None:
        weights, images = options.named_weights, [weights, *(images or ())]
        if images == [None]:
            raise UsageError("IMAGE: got none, expected at least one.")
    keep_memory()
    try:
        names = class_names_of(options.classes)
        with working(f"classifying by {weights}"):
            predictions = predict(
                weights,
                images,
                model=options.model,
                num_classes=options.num_classes,
                class_names=names,
                top=options.top,
                cam_directory=options.cam,
                endpoint=options.endpoint,
            )
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        print_json([dataclasses.asdict(prediction) for prediction in predictions])
        return 0
    columns = (
        Column("image", "Image"),
        Column("name", "Class"),
        Column("probability", "Probability", "%", ".1f", 100.0),
    )
    folder, shown = names_in_folder([each.image for each in predictions])
    rows = [
        {
            "image": "" if place else image,
            "name": name,
            "probability": probability,
        }
        for image, prediction in zip(shown, predictions, strict=True)
        for place, (name, probability) in enumerate(
            zip(prediction.names, prediction.probabilities, strict=True)
        )
    ]
    notes = [] if folder is None else [f"Images in {folder}."]
    notes += [
        f"{prediction.image}: map of {prediction.names[0]} in {prediction.picture}"
        for prediction in predictions
        if prediction.picture is not None
    ]
    num_grey = sum(prediction.is_grey for prediction in predictions)
    if num_grey:
        of = f"{num_grey} of {count(len(predictions), 'image')}"
        notes.append(f"{of}: grey, repeated to 3 channels")
    print_table(Table(count(len(predictions), "image"), columns, rows, notes))
    return 0


def names_in_folder(images: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Returns the folder that all images are in and their names there.

    None and the names as they are where the other columns fit beside these, or have
    no such folder.
    """
    if max(map(len, images)) <= MAX_NAME:
        return None, images
    try:
        folder = os.path.commonpath(list(map(os.path.dirname, images)))
    except ValueError:  # some are absolute and some are not
        return None, images
    if not folder:
        return None, images
    return folder, [os.path.relpath(image, folder) for image in images]
