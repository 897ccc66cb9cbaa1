"""Our own checkpoints as weights: converted ones, and those of training runs.

A run directory holds `config.json` and, unless that says where else, `checkpoints/`.
Each of its checkpoints is all that changes in training; the weights in it are what the
run evaluates: moving averages, if it keeps them. Of several checkpoints that one is
taken which the run itself reports: the best by its validation split, if it has one,
else the newest that is sound.

Nothing here writes: a run may go on meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax
import numpy as np

from cnn_jax import trees
from cnn_jax.files import FileError, read_bytes, reading
from cnn_jax.models import list_models, model_info
from cnn_jax.preprocessing import SMALL_SIDE, Preprocessing, unrecorded_crop
from cnn_jax.pretrained.files.own_weights import (
    HEAD,
    KIND,
    OwnWeights,
    as_class_names,
    as_fields,
    checked,
    from_metadata,
    num_classes_of,
    param_dtype_of,
)
from cnn_jax.pretrained.files.stored import (
    Provenance,
    StoredArray,
    Weights,
    check_names,
)

if TYPE_CHECKING:  # Orbax is imported when a checkpoint is opened
    from cnn_jax.checkpoint import Checkpointer, Description

P = ParamSpec("P")
T = TypeVar("T")

_MOST_REMOVALS = 20
"""The number of times in a row that a run may remove what is read."""

_STATE, _AVERAGE = "state/", "state/average/"

_MAX_CONFIG = 2**22
"""The longest `config.json` that is read, in bytes: more than any run's."""

_MAX_DEPTH = 32
"""The most parts that the path of an array may have."""

_RECORDED = tuple(field.name for field in dataclasses.fields(Preprocessing))
"""Fields that runs record of their images; older ones do not have all."""

_HEAD = 2**28
"""In bytes: more than the last layer of any model here takes with 20,000 classes."""


@dataclasses.dataclass(frozen=True)
class _Found:
    """A checkpoint and the weights in it.

    Attributes:
      step: Its step.
      specs: Path here -> `"float32[3,3,16,16]"`.
      says: What it says of the model.
      prefix: What these paths begin with in the checkpoint.
      ignored: Other parameters in it: a run's own ones beside their averages. What
        else training keeps, such as the optimizer's state, is no weight and not listed.
      part: Which part of what was named the weights are; `""` for all.
    """

    step: int
    specs: Mapping[str, str]
    says: OwnWeights
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    part: str = ""


class RemovedFileError(FileError):
    """A run that goes on removed its newest checkpoint while it was read."""


def again_if_removed(function: Callable[P, T]) -> Callable[P, T]:
    """Calls a reader of a run's newest checkpoint again when that was removed."""

    @functools.wraps(function)
    def read(*arguments: P.args, **named: P.kwargs) -> T:
        for attempt in itertools.count(1):
            try:
                return function(*arguments, **named)
            except RemovedFileError:
                if attempt == _MOST_REMOVALS:
                    raise
        raise AssertionError("unreachable")

    return read


@again_if_removed
def describe_directory(path: pathlib.Path) -> OwnWeights:
    """Returns what a directory's checkpoint says of the weights in it.

    Raises:
      FileNotFoundError: If no checkpoint is in the directory.
      ValueError: If it is another checkpoint, or is damaged.
    """
    with _opened(path) as (_, found):
        return found.says


@contextlib.contextmanager
def open_own(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a directory and describes its arrays.

    Reading one restores and verifies all.

    Args:
      path: A directory that `cnn-jax convert` wrote, a run's, its `checkpoints`, or one
        step in there.

    Raises:
      FileNotFoundError: If no checkpoint is in it.
      ValueError: If it is another checkpoint, or is damaged.
    """
    with _opened(path) as (checkpointer, found):
        with reading(path, "a checkpoint of weights"):
            template = {name: _abstract(spec) for name, spec in found.specs.items()}
            check_depths(template)
        head = {name: leaf for name, leaf in template.items() if _is_head(name)}
        # Of a last layer as large as no model's it is not known yet whether it is read.
        apart = sum(leaf.size * leaf.dtype.itemsize for leaf in head.values()) > _HEAD

        @functools.cache
        def restore(of_head: bool) -> dict[str, jax.Array]:
            wanted = {
                found.prefix + name: leaf
                for name, leaf in template.items()
                if not apart or (name in head) == of_head
            }
            with _named_as_damage(path):
                tree = checkpointer.restore(
                    nested(wanted), step=found.step, partial=True
                ).tree
            return trees.named_leaves(tree)

        def describe(name: str) -> StoredArray:
            leaf = template[name]
            return StoredArray(
                leaf.shape,
                str(leaf.dtype),
                lambda: np.asarray(
                    restore(apart and name in head)[found.prefix + name]
                ),
            )

        yield Weights(
            {name: describe(name) for name in template},
            Provenance(
                str(path),
                path,
                part=found.part,
                preprocessing=found.says.preprocessing,
            ),
            ignored=found.ignored,
        )


def check_depths(paths: Iterable[str]) -> None:
    """Raises ValueError for a path of more parts than JAX's trees are walked in."""
    for path in paths:
        if path.count("/") >= _MAX_DEPTH:
            raise ValueError(
                f"a path of {path.count('/') + 1} parts, expected at most {_MAX_DEPTH}"
            )


def _is_head(path: str) -> bool:
    return re.fullmatch(HEAD, path) is not None


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree whose leaves have these '/'-joined paths."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = leaf
    return tree


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Checkpointer, _Found]]:
    """Opens a directory's checkpoints for reading."""
    from cnn_jax.checkpoint import Checkpointer

    if not any(path.iterdir()):
        raise FileNotFoundError(f"{path}: got an empty directory.")
    directory, step = _locate(path)
    # Else it would lock another run's directory and remove its unfinished steps.
    with reading(path, "a directory of checkpoints"):
        opened = Checkpointer(directory, read_only=True)
    with opened as checkpointer:
        with _named_as_damage(path, missing=False):
            found = checkpointer.describe(step)
        check_names(found.leaves, path)
        if found.metadata.get("kind") == KIND:
            says = from_metadata(found.metadata, str(path))
            own = _Found(found.step, found.leaves, says)
        elif _is_run(found):
            with _reading_run(path):
                chosen = _chosen(checkpointer, found, step, path)
                own = _of_run(chosen, named=step is not None)
        else:
            raise FileError(
                f"{path}: got a checkpoint of something else; expected one that "
                "cnn-jax convert or a training run wrote."
            )
        yield checkpointer, own


def _reading_run(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return reading(
        path, "what a training run writes", found="a checkpoint with other metadata"
    )


def _locate(path: pathlib.Path) -> tuple[str | pathlib.Path, int | None]:
    """Returns the checkpoints' directory, and the step if the path is a step's."""
    path = path.absolute()
    if path.name.isdecimal() and (path / "MANIFEST").is_file():
        return path.parent, int(path.name)
    config = path / "config.json"
    if config.is_file():
        with reading(
            path,
            "a run directory, or one that cnn-jax convert wrote",
            found="a config.json that is no training run's",
        ):
            content = json.loads(read_bytes(config, max_bytes=_MAX_CONFIG))
            elsewhere = content["config"].get("checkpoint_dir")
            if not isinstance(elsewhere, str | None) or "\0" in (elsewhere or ""):
                raise TypeError(f"checkpoint_dir: got {elsewhere!r}, expected a path")
        return elsewhere or path / "checkpoints", None
    return path, None


@contextlib.contextmanager
def _named_as_damage(path: pathlib.Path, *, missing: bool = True) -> Iterator[None]:
    """Raises a checkpoint's errors as those of any other file.

    Args:
      path: What was opened.
      missing: Whether a checkpoint that is not there counts, since it was there before.
    """
    from cnn_jax.checkpoint import CheckpointError, RemovedError

    absent = None
    with reading(path, "a checkpoint"):
        try:
            yield
        except RemovedError as error:
            raise RemovedFileError(str(error)) from error
        except CheckpointError as error:  # it says what is wrong, and where
            raise FileError(str(error)) from error
        except FileNotFoundError as error:
            if missing:
                raise RemovedFileError(str(error)) from error
            absent = error
    if absent is not None:
        raise absent


def _is_run(found: Description) -> bool:
    return {"config", "record"} <= found.metadata.keys() and any(
        path.startswith(f"{_STATE}params/") for path in found.leaves
    )


def _chosen(
    checkpointer: Checkpointer,
    newest: Description,
    step: int | None,
    path: pathlib.Path,
) -> Description:
    """Returns the checkpoint that a run reports: what `fit` takes at its end.

    The best is the one that the run noted, not the highest metric among the sound ones:
    if the best is damaged, the second best must not be taken for it.
    """
    progress = newest.metadata["record"]
    best = progress.get("best_step") if progress.get("best_epoch") else None
    if step is not None or best in (None, newest.step):
        return newest
    try:
        with _named_as_damage(path):
            return checkpointer.describe(best)
    except FileError as error:
        if checkpointer.latest_step != newest.step:  # there is another best by now
            raise RemovedFileError(str(error)) from error
        raise FileError(
            f"{error} It is the run's best; name {checkpointer.directory}/"
            f"{newest.step} to take the newest."
        ) from error


def _of_run(found: Description, *, named: bool) -> _Found:
    has_average = any(path.startswith(f"{_AVERAGE}params/") for path in found.leaves)
    prefix = _AVERAGE if has_average else _STATE
    weights = {
        path: spec
        for path, spec in found.leaves.items()
        if re.match(rf"({_STATE}|{_AVERAGE})(params|batch_stats)/", path)
    }
    specs = {
        path.removeprefix(prefix): spec
        for path, spec in weights.items()
        if path.startswith((f"{prefix}params/", f"{prefix}batch_stats/"))
    }
    progress = found.metadata["record"]
    is_best = progress.get("best_epoch") and progress.get("best_step") == found.step
    which = "best " if is_best and not named else "newest " if not named else ""
    return _Found(
        step=found.step,
        specs=specs,
        says=_run_says(found.metadata, specs),
        prefix=prefix,
        ignored=tuple(
            path for path in weights if path.removeprefix(prefix) not in specs
        ),
        part=f"{which}checkpoint, step {found.step}"
        + (", moving averages" if has_average else ""),
    )


def _run_says(metadata: Mapping[str, Any], specs: Mapping[str, str]) -> OwnWeights:
    config, images = metadata["config"], metadata.get("images", {})
    # Older runs say the configuration's name alone.
    identity = metadata.get("model", {"name": config.get("model")})
    class_names = as_class_names(images.get("class_names"))
    num_classes = num_classes_of(specs)
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    return checked(
        OwnWeights(
            model=identity["name"],
            fields=as_fields(identity.get("fields", {})),
            own_model=_own_model(identity),
            num_classes=num_classes,
            dtype=config.get("dtype"),
            param_dtype=param_dtype_of(specs),
            class_names=class_names,
            preprocessing=_preprocessing(config, images),
            is_run=True,
        )
    )


def _own_model(identity: Mapping[str, Any]) -> str | None:
    """Returns what a run says of a model that cannot be made by name, else None."""
    if identity["name"] is None:
        return f"the user's own, {identity['module']}"
    kept = identity.get("fields", {})
    lost = {
        name: text
        for name, text in identity.get("changed", {}).items()
        if name not in kept
    }
    changed = ", ".join(f"{name}={text}" for name, text in lost.items())
    return f"{identity['name']} with {changed}" if changed else None


def _preprocessing(
    config: Mapping[str, Any], images: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what a run says of its images; see `Provenance`.

    Args:
      config: Its configuration, which leaves what it can to the data.
      images: What it found out from them, if it recorded that.
    """
    known: dict[str, Any] = {}
    if config.get("mean") is not None:
        known |= {"mean": config["mean"], "std": config["std"]}
    for name in ("crop_fraction", "crop_mode", "interpolation"):
        if config.get(name) is not None:
            known[name] = config[name]
    size, model = config.get("image_size"), config.get("model")
    if size is not None and model in list_models():
        known["input_shape"] = [size, size, model_info(model).input_shape[2]]
    recorded = (*_RECORDED, "input_shape")
    known |= {name: images[name] for name in recorded if name in images}
    if "crop_mode" in known:
        return known
    return _unrecorded_crop(config, known) | known


def _unrecorded_crop(
    config: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the crop of a run that does not say all of it.

    Args:
      config: Its configuration.
      known: What it says of its images. Without their size nothing is known of them.
    """
    # Only sets in memory have a size of their own.
    has_own_size = "image_size" in config and config["image_size"] is None
    path, shape = config.get("data_path"), known.get("input_shape")
    if shape is None and not has_own_size:
        return {}
    if known.get("crop_fraction") is not None:
        is_stream = known["crop_fraction"] != 1.0
    elif has_own_size or path in ("resident", "stream"):
        is_stream = path == "stream"
    else:
        assert shape is not None  # see above
        is_stream = shape[0] > SMALL_SIDE
    is_resized = not (is_stream or has_own_size) and path in ("resident", "auto")
    return unrecorded_crop(is_stream=is_stream, is_resized=is_resized)


def _abstract(spec: str) -> jax.ShapeDtypeStruct:
    """Parses `"float32[3,3,16,16]"`."""
    match = re.fullmatch(r"(\w+)\[([\d,]*)\]", spec)
    if match is None:
        raise ValueError(f"an array that is {spec!r}")
    dtype, sizes = match.groups()
    return jax.ShapeDtypeStruct(
        tuple(map(int, filter(None, sizes.split(",")))),
        dtype,
        # Weights from anywhere: the devices they were saved on are not here.
        sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
    )
