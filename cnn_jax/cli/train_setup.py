"""Set-up of `cnn-jax train`: from its options to images, choices and a run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import operator
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import data, messages, recipe, sharding
from cnn_jax.cli.usage import UsageError
from cnn_jax.data.sources.folder import FOLDER, absolute_name
from cnn_jax.files import read_json, reading, write_text
from cnn_jax.layers import abstract_variables
from cnn_jax.models import create_model, model_info
from cnn_jax.pretrained import load_pretrained
from cnn_jax.pretrained.files import describe_own, open_weights
from cnn_jax.pretrained.files.own_weights import as_fields
from cnn_jax.pretrained.load import stored_channels
from cnn_jax.training import TrainConfig
from cnn_jax.training.config import RESUME_MAY_CHANGE
from cnn_jax.training.run.channels import input_channels, weights_channels
from cnn_jax.training.run.checks import check_model
from cnn_jax.training.run.directory.files import holds_run
from cnn_jax.training.run.images import image_format

SPLIT_FILE = "split.json"
"""The file of a run directory that says which image of a folder went where."""

Parts = Mapping[str, data.Source]
"""`"train"`, `"test"` and perhaps `"validation"`."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run that is ready to start.

    Attributes:
      config: Its configuration.
      parts: Its images, before any are read into memory.
      choices: What was chosen, with reasons; none for a run that is resumed.
      shares: How a folder was split; None for other data.
    """

    config: TrainConfig
    parts: Parts
    choices: tuple[recipe.Choice, ...] = ()
    shares: Mapping[str, Any] | None = None

    @property
    def is_split_here(self) -> bool:
        """True if a part was held out of a folder's images by their names."""
        return self.shares is not None and isinstance(self.parts["train"], data.Subset)

    def splits(self) -> Parts | None:
        """Returns what `experiment.run` takes: None for what it opens by itself."""
        if self.shares is None:
            return None
        size, channels = self.config.image_size, self.config.in_channels
        parts = dict(self.parts)
        if channels is not None:  # files are decoded to it
            parts = {
                name: data.with_channels(part, channels) for name, part in parts.items()
            }
        if self.config.data_path != "resident":
            return parts
        return {
            name: data.read_source(part, image_size=size)
            for name, part in parts.items()
        }

    def write_split(self) -> None:
        """Writes into the run directory which image went where."""
        if self.shares is None or self.config.run_dir is None:
            return
        path = pathlib.Path(self.config.run_dir).expanduser() / SPLIT_FILE
        files = {name: _file_names(part) for name, part in self.parts.items()}
        content = {**self.shares, "files": files}
        write_text(path, json.dumps(content, indent=2) + "\n")


def set_up(options: argparse.Namespace, given: Mapping[str, Any]) -> Setup:
    """Decides what a new run does.

    Args:
      options: The command's options.
      given: Those that are fields of `TrainConfig`, if given.

    Raises:
      UsageError, ValueError, OSError, ImportError, CheckpointError: If it cannot be
        done, before anything is compiled or written.
    """
    if options.model is None or options.data is None:
        missing = "MODEL" if options.model is None else "--data"
        raise UsageError(
            f"{missing}: got none; expected cnn-jax train MODEL --data folder:PATH."
        )
    if options.method == "probe" and options.pretrained is None:
        raise UsageError(
            "--method probe: got no --pretrained, expected the weights whose features "
            "are to be classified."
        )
    info = model_info(options.model)
    seed = given.get("seed", TrainConfig.seed)
    config = TrainConfig(
        model=options.model,
        dataset=absolute_name(options.data),
        pretrained=options.pretrained,
        run_dir=_new_run_dir(options) if options.run_dir is None else options.run_dir,
        **{
            name: given[name]
            for name in ("data_dir", "in_channels", "mesh", "dtype")
            if name in given
        },
    )
    dataclasses.replace(config, **given).validate()
    check_is_new(config)
    validation = 0.0 if options.method == "probe" else options.validation_share
    shares = None
    if options.data.startswith(FOLDER):
        if given.keys() & {"train_split", "test_split"}:
            raise UsageError(
                "--train-split, --test-split: got one for a folder, whose parts are "
                "its directories train, val and test, or are made by --test-share."
            )
        shares = {"test_share": options.test_share, "validation_share": validation}
        shares["seed"] = seed
        parts = open_folder(options.data, shares)
        held, num_train = 0.0, len(parts["train"])
    else:
        parts = _open_other(config, given)
        num_train = len(parts["train"])
        held = data.automatic_validation_share(num_train)
        held = held if validation is None else validation
        num_train -= round(num_train * held)
    facts = _facts(config, parts["train"], info)
    facts = dataclasses.replace(
        facts,
        num_train=num_train,
        has_validation="validation" in parts or held > 0,
    )
    choices = recipe.choose(facts, given, method=options.method)
    fields: dict[str, Any] = {"validation_fraction": held}
    if shares is None:
        fields["test_split"] = parts["test"].split
    for choice in choices:
        fields |= choice.fields
    config = dataclasses.replace(config, **{**fields, **given})
    config.validate()
    _check(config, parts["train"], num_train, facts.channels)
    return Setup(config, parts, tuple(choices), shares)


def set_up_resumed(options: argparse.Namespace, given: Mapping[str, Any]) -> Setup:
    """Reads from a run directory what its run does, and continues it.

    Raises:
      UsageError: If there is no run, or the options contradict it.
    """
    run_dir = options.run_dir
    if run_dir is not None:
        TrainConfig(run_dir=run_dir).validate()
    place = _last_run_dir(options) if run_dir is None else run_dir
    directory = pathlib.Path(os.path.expanduser(place))
    try:
        about = read_json(directory / "config.json")
        saved = about["config"]
        if about.get("method") == "probe":
            raise UsageError(
                f"{directory}: got a probe, which is not resumed; repeat it."
            )
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        saved = as_fields({name: saved[name] for name in saved if name in known})
        # Without these, a file that no run wrote would be one of nothing but defaults.
        named = {name: saved[name] for name in ("model", "dataset")}
        config = TrainConfig(**{**saved, **named})
        config.validate()
        if config.dataset.startswith(FOLDER):
            shares = _read_shares(directory / SPLIT_FILE)
    except FileNotFoundError:
        raise UsageError(
            f"{directory}: got no run that cnn-jax train has started, expected the "
            "directory of the run to continue (--run-dir)."
        ) from None
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(str(error)) from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise UsageError(
            f"{directory}: got files that no training run wrote "
            f"({type(error).__name__}: {error})."
        ) from error
    asked = {"model": options.model, "pretrained": options.pretrained, **given}
    changed = [
        f"{name}: got {value!r}, the run has {getattr(config, name)!r}"
        for name, value in asked.items()
        if value is not None
        and name not in RESUME_MAY_CHANGE
        and value != getattr(config, name)
    ]
    if options.data is not None and absolute_name(options.data) != config.dataset:
        changed.append(f"data: got {options.data!r}, the run has {config.dataset!r}")
    if changed:
        raise UsageError(
            f"{directory}: {'; '.join(changed)}. Start another run for that, or resume "
            "without these options."
        )
    # What was allowed once is not allowed for good.
    changes: dict[str, Any] = {"allow_changed": ()}
    changes |= {name: given[name] for name in given if name in RESUME_MAY_CHANGE}
    changes |= {"resume": True, "run_dir": str(directory)}
    config = dataclasses.replace(config, **changes)
    config.validate()
    if not config.dataset.startswith(FOLDER):
        return Setup(config, _open_other(config, {"test_split": config.test_split}))
    return Setup(config, open_folder(config.dataset, shares), (), shares)


def _read_shares(path: pathlib.Path) -> dict[str, Any]:
    """Returns how a folder was split, as `split_folder` takes it."""
    found = read_json(path)
    with reading(path, "how a folder was split"):
        validation = found["validation_share"]
        return {
            "test_share": float(found["test_share"]),
            "validation_share": None if validation is None else float(validation),
            "seed": operator.index(found["seed"]),
        }


def open_folder(name: str, shares: Mapping[str, Any]) -> dict[str, data.Source]:
    """Returns the parts of a folder; says on standard error what is left out of it."""
    root = name.removeprefix(FOLDER)
    if not root:
        raise UsageError(f"--data: got {name!r}, expected folder:PATH.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        parts = data.split_folder(root, **shares)
    for warning in dict.fromkeys(str(each.message) for each in caught):
        messages.warn(warning)
    return parts


def class_counts(part: data.Source) -> np.ndarray | None:
    """Returns how many images of each class a part of a folder has; None for others."""
    folder, indices = _in_folder(part)
    if folder is None:
        return None
    return np.bincount(folder.labels[indices], minlength=len(part.class_names))


def first_file(part: data.Source) -> str | None:
    """Returns the path of a folder's first image; None for other data."""
    folder, indices = _in_folder(part)
    if folder is None:
        return None
    return str(folder.directory / folder.file_names[indices[0]])


def _in_folder(part: data.Source) -> tuple[data.Folder | None, np.ndarray]:
    """Returns the folder of a part and the part's numbers there; None for others."""
    if isinstance(part, data.Subset):
        folder, indices = _in_folder(part.source)
        return folder, indices[part.indices]
    return part if isinstance(part, data.Folder) else None, np.arange(len(part))


def _file_names(part: data.Source) -> list[str]:
    folder, indices = _in_folder(part)
    if folder is None:
        return []
    names = folder.file_names
    return [names[index] for index in indices]


def _open_other(
    config: TrainConfig, given: Mapping[str, Any]
) -> dict[str, data.Source]:
    """Opens the splits of a dataset that is no folder."""

    def open_split(split: str) -> data.Source:
        return data.open_source(config.dataset, split, data_dir=config.data_dir)

    train = open_split(given.get("train_split", config.train_split))
    if "test_split" in given:
        return {"train": train, "test": open_split(given["test_split"])}
    try:
        return {"train": train, "test": open_split("test")}
    except ValueError:
        return {"train": train, "test": open_split("validation")}


def _check(
    config: TrainConfig, train: data.Source, num_train: int, channels: int
) -> None:
    """Checks what else would end the run, before it has a directory.

    Args:
      config: The run's configuration.
      train: The training images.
      num_train: How many there will be.
      channels: Those of the images that the model gets.

    Raises:
      ValueError: If the batch, the augmentation, the mean or the size of images is
        impossible.
    """
    assert config.image_size is not None  # it was chosen
    if config.batch_size > num_train:
        raise UsageError(
            f"batch_size: got {config.batch_size}, expected 1 to {num_train}, the "
            "number of training images."
        )
    mesh = sharding.make_mesh(specification=config.mesh)
    sharding.check_batch_size(config.batch_size, mesh)
    data.train_transform(config.augmentation, config.image_size)
    if config.mean is not None:
        image_format(config, data.with_channels(train, channels))
    model = _model(config, train)
    shape = (config.image_size, config.image_size, channels)
    check_model(model, shape, len(train.class_names), config.dtype)


def _model(config: TrainConfig, train: data.Source) -> Any:
    return create_model(
        config.model,
        num_classes=len(train.class_names),
        in_channels=config.in_channels,
        dtype=config.dtype,
        **config.model_overrides(),
    )


def _facts(config: TrainConfig, train: data.Source, info: Any) -> recipe.Facts:
    """Finds out what the choices depend on, but for the numbers of images."""
    shape = _one_shape(train)
    model = _model(config, train)
    known: dict[str, Any] = {}
    has_new_head = True
    if config.pretrained is None:
        channels = input_channels(config, model, shape)
    else:
        channels = _channels_beside(config, model, shape)
        known, has_new_head = _check_weights(config, model, channels, info)
    height, width = info.input_shape[:2]
    variables = abstract_variables(model, _image(height, width, channels))
    takes_images = True
    if None not in shape:
        try:
            abstract_variables(model, _image(*shape[:2], channels))
        except ValueError:
            takes_images = False
    mesh = sharding.make_mesh(specification=config.mesh)
    return recipe.Facts(
        model=info,
        num_train=len(train),
        image_shape=shape,
        in_channels=channels,
        takes_images=takes_images,
        has_batch_norm=bool(variables.get("batch_stats")),
        num_shards=sharding.num_batch_shards(mesh),
        is_pretrained=config.pretrained is not None,
        has_new_head=has_new_head,
        preprocessing=known,
    )


def _channels_beside(
    config: TrainConfig, model: Any, shape: tuple[int | None, int | None, int]
) -> int:
    """Returns how many channels images get that meet the weights.

    Args:
      config: Says which weights and model.
      model: The model.
      shape: `(height, width, channels)` of the training images.

    Raises:
      UsageError: If the weights are another model's.
    """
    weights = config.pretrained
    assert weights is not None  # that is why it is called
    own = describe_own(weights)
    if own is not None and own.model not in (None, config.model):
        raise UsageError(
            f"--pretrained: got weights of {own.model} in {weights}, expected those "
            f"of {config.model}; train {own.model}, or name other weights."
        )
    return weights_channels(
        config, model, shape, lambda: stored_channels(model, weights)
    )


def _check_weights(
    config: TrainConfig, model: Any, channels: int, info: Any
) -> tuple[dict[str, Any], bool]:
    """Returns what the weights say of images, and whether the last layer starts anew.

    Args:
      config: Says which weights.
      model: The model.
      channels: Those of the images that it gets.
      info: The registry's entry.
    """
    weights = config.pretrained
    assert weights is not None  # that is why it is called
    with open_weights(weights) as opened:
        said = opened.provenance.preprocessing
    size = said.get("input_shape", info.input_shape)[:2]
    _, report = load_pretrained(
        model,
        weights,
        key=jax.random.key(0),
        input_shape=(*size, channels),
    )
    return dict(report.provenance.preprocessing), bool(report.initialized)


def _image(*shape: int | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def _one_shape(source: data.Source) -> tuple[int | None, int | None, int]:
    """Returns the shape of a source's images, from the headers of a folder's files.

    That of a folder only if all are squares of one size, which need no crop.
    """
    height, width, channels = source.features.image_shape
    folder, _ = _in_folder(source)
    if folder is None:
        return height, width, channels
    sizes: set[tuple[int, int]] = set()
    for name in _file_names(source):
        try:
            with Image.open(folder.directory / name) as image:
                sizes.add(image.size)
        except (OSError, ValueError, Image.DecompressionBombError):
            return None, None, channels  # reading it will say what is wrong
        if len(sizes) > 1:
            return None, None, channels
    ((width, height),) = sizes
    return (height, width, channels) if height == width else (None, None, channels)


def _run_dirs(options: argparse.Namespace) -> Iterator[pathlib.Path]:
    """Yields `runs/MODEL-DATA`, `runs/MODEL-DATA-2` and so on."""
    name = absolute_name(options.data)
    if name.startswith(FOLDER):
        name = pathlib.Path(name.removeprefix(FOLDER)).name
    name = re.sub(r"[^\w.-]+", "-", name).strip("-") or "images"
    stem = f"{options.model}-{name}"
    yield pathlib.Path("runs", stem)
    number = 2
    while True:
        yield pathlib.Path("runs", f"{stem}-{number}")
        number += 1


def _new_run_dir(options: argparse.Namespace) -> str:
    return str(next(path for path in _run_dirs(options) if not path.exists()))


def _last_run_dir(options: argparse.Namespace) -> pathlib.Path:
    if options.model is None or options.data is None:
        raise UsageError(
            "--resume: got neither --run-dir nor MODEL and --data, expected one of "
            "them to say which run to continue."
        )
    found = None
    for path in _run_dirs(options):
        if not path.exists():
            break
        found = path
    if found is None:
        raise UsageError(
            f"--resume: got no run in {next(_run_dirs(options))}, expected one to "
            "continue; name its directory (--run-dir)."
        )
    return found


def check_is_new(config: TrainConfig) -> None:
    """Refuses a run directory that holds a run already."""
    directory = pathlib.Path(str(config.run_dir))
    if holds_run(directory.expanduser()):
        raise UsageError(
            f"{directory}: holds a run already; continue it (--resume --run-dir "
            f"{directory}), or choose another directory."
        )
