"""Loading of a model's variables from arrays under another library's names.

Everything is checked before anything is returned: each array must have a place, each
place an array of its shape. One error lists all that does not fit. Names, shapes and
dtypes are checked before any array is read, the numbers as they are.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import trees
from cnn_jax.layers import abstract_variables
from cnn_jax.models import create_model
from cnn_jax.models.fields import RANGES
from cnn_jax.models.registry import in_channels_of, sized_for
from cnn_jax.pretrained import placement
from cnn_jax.pretrained.channels import RGB, convert_preprocessing
from cnn_jax.pretrained.files import Provenance, Weights, describe_own, open_weights
from cnn_jax.pretrained.files.own_checkpoints import again_if_removed
from cnn_jax.pretrained.report import ConversionReport, some
from cnn_jax.pretrained.rules import Origin
from cnn_jax.pretrained.source_preprocessing import with_preprocessing
from cnn_jax.ranges import problem, shown


def load_pretrained(
    model_or_name: nn.Module | str,
    path: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: Origin | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    key: jax.Array | None = None,
    input_shape: Sequence[int] | None = None,
) -> tuple[dict[str, Any], ConversionReport]:
    """Returns a model's variables, filled with weights trained elsewhere.

    No file can run code here, and none makes more memory be used than the model needs.

    Args:
      model_or_name: A model, or its name in `list_models()`.
      path: What holds the weights:
        a `.safetensors` or `.npz` file of any names, also one that `cnn-jax convert`
        wrote;
        a `.weights.h5` or `.h5` file of Keras (needs the extra `keras-files`);
        a `.pth`, `.pt`, `.bin` or `.tar` file of PyTorch (needs the extra `torch`);
        a directory that `cnn-jax convert` wrote;
        the directory of a training run, whose best checkpoint is taken, or the newest
        without a validation split; its `checkpoints`, or one step in there;
        `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`, a repository on the
        Hugging Face Hub with a `model.safetensors` (needs the extra `hub`);
        `package:NAME`, an installed package with one such file in it, which is neither
        imported nor run;
        or a mapping from names to arrays or PyTorch tensors, such as a state dict or
        a checkpoint that has one inside.
      source: Whose names the arrays have: `"torchvision"`, `"timm"`, `"keras"`, or
        `"cnn_jax"` for the '/'-joined paths used here. None finds out.
      num_classes: The number of logits, to go with a name. None, or the number that
        the file has, keeps its last layer; another number initialises a new one.
        A `Module` has its own number.
      in_channels: The number of channels of the images that the model will get, where
        `model_or_name` and `input_shape` do not say it. The first filters of RGB
        weights are made into ones for it: summed for grey images, else repeated and
        scaled, see `cnn_jax.pretrained.channels`. None keeps them as they are. (Grey
        images, repeated to three channels, need no other filters.)
      key: A key for the new last layer, needed if there is one.
      input_shape: (height, width, channels) of the images that the model will get, for
        weights that must fit them; its channels count as `in_channels`. None takes
        what the weights are for: what they say, or what the model was sized for with as
        many channels as their first filters.

    Returns:
      The variables, a dict with `"params"` and `"batch_stats"`, and the report.

    Raises:
      FileNotFoundError: If there is no such file, here, on the Hub or in a package.
      ImportError: If what reads such a file is not installed.
      ValueError: If the file is damaged, no names fit, or any array is missing,
        unexpected, of another shape or not of floating-point numbers; the message
        lists them all. If all that is in order but some values are not finite, or too
        large for the model's dtype; likewise. If the weights are for images of another
        number of channels than wanted, and not for RGB images. Or if the arguments
        contradict each other.
    """
    check_in_channels(in_channels)
    if not isinstance(model_or_name, nn.Module):
        known = describe_own(path)
        if known is not None:
            known.require_plain(path)
        model = create_model(model_or_name, num_classes=num_classes)
    elif num_classes is None:
        model = model_or_name
        num_classes = _num_classes(model)
    else:
        raise ValueError(
            f"num_classes: got {num_classes} beside a model, which has its own; pass "
            "one of them."
        )
    return fill(
        model,
        path,
        source=source,
        num_classes=num_classes,
        key=key,
        in_channels=in_channels,
        input_shape=input_shape,
    )


def check_in_channels(in_channels: object) -> None:
    """Raises ValueError for what is neither a possible number of channels nor None."""
    if (expected := problem(in_channels, RANGES["in_channels"])) is not None:
        raise ValueError(f"in_channels: got {shown(in_channels)}, expected {expected}.")


@again_if_removed
def stored_channels(
    model: nn.Module, path: str | os.PathLike[str] | Mapping[str, Any]
) -> int:
    """Returns how many channels the images have that weights are for; reads no array.

    Args:
      model: Their model, made for any number of channels.
      path: See `load_pretrained`.

    Raises:
      FileNotFoundError, ImportError, ValueError: As `load_pretrained` does.
    """
    with open_weights(path) as weights:
        return _fit(model, weights, None, None, None).input_shape[-1]


@again_if_removed
def fill(
    model: nn.Module,
    path: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: Origin | None,
    num_classes: int | None,
    key: jax.Array | None,
    in_channels: int | None = None,
    input_shape: Sequence[int] | None = None,
) -> tuple[dict[str, Any], ConversionReport]:
    """Returns a model's variables; as `load_pretrained`, which made the model.

    Args:
      model: The model.
      path: See `load_pretrained`.
      source: See `load_pretrained`.
      num_classes: The model's number of classes if it was requested, so that a last
        layer for another number may be replaced; else None.
      key: See `load_pretrained`.
      in_channels: See `load_pretrained`.
      input_shape: See `load_pretrained`.
    """
    channels = _wanted_channels(model, in_channels, input_shape)
    with open_weights(path) as weights:
        fit = _fit(model, weights, source, input_shape, channels)
        expected = trees.named_leaves(fit.shapes)
        has_head = _num_classes(model) != 0
        location = weights.provenance.location
        plan = placement.plan(
            weights.arrays, fit.places, expected, has_head=has_head, location=location
        )
        if plan.heads:
            _check_head_may_differ(
                plan.heads, _num_classes(model), num_classes, key, location
            )
        values = placement.read(weights.arrays, plan.places, expected, location)
        loaded = {
            name: place.path
            for name, place in plan.places.items()
            if place.path is not None
        }
        dtypes = {path: weights.arrays[name].dtype for name, path in loaded.items()}
    if plan.heads:
        assert key is not None  # checked above
        values |= _initialize_leaves(model, fit.input_shape, plan.heads, key)
    variables = jax.tree.unflatten(
        jax.tree.structure(fit.shapes), [values[path] for path in expected]
    )
    return variables, ConversionReport(
        source=fit.source,
        loaded=loaded,
        ignored=(*weights.ignored, *plan.ignored),
        cast={
            path: (dtype, str(expected[path].dtype))
            for path, dtype in dtypes.items()
            if dtype != expected[path].dtype
        },
        initialized=tuple(plan.heads),
        provenance=_provenance(weights.provenance, model, fit),
        input_shape=fit.input_shape,
        converted=fit.converted,
    )


def _wanted_channels(
    model: nn.Module, in_channels: int | None, input_shape: Sequence[int] | None
) -> int | None:
    """Returns how many channels the images have; None for as many as the weights'.

    Raises:
      ValueError: If two of the three disagree.
    """
    said = {
        "in_channels": in_channels,
        f"the {type(model).__name__}'s in_channels": in_channels_of(model),
        "input_shape": None if input_shape is None else tuple(input_shape)[-1],
    }
    given = {name: number for name, number in said.items() if number is not None}
    if len(set(given.values())) > 1:
        listed = " and ".join(f"{number} ({name})" for name, number in given.items())
        raise ValueError(f"channels of the images: got {listed}, expected one number.")
    return next(iter(given.values()), None)


def _provenance(provenance: Provenance, model: nn.Module, fit: _Fit) -> Provenance:
    """Returns where weights come from, with what goes with their filters now."""
    channels, _ = next(iter(fit.converted.values()), (fit.input_shape[-1], None))
    provenance = with_preprocessing(provenance, model, fit.source, channels)
    if not fit.converted:
        return provenance
    said = convert_preprocessing(provenance.preprocessing, fit.input_shape[-1])
    return dataclasses.replace(provenance, preprocessing=said)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """The placement of arrays in a model, and the images that both are for.

    Attributes:
      source: Whose names the arrays have.
      places: Name -> place, or None.
      shapes: The model's variables, as shapes and dtypes.
      input_shape: (height, width, channels) that these were traced with.
      converted: Path -> (channels of the arrays' filters, those of the model's), where
        they are to be converted.
    """

    source: Origin
    places: Mapping[str, placement.Place | None]
    shapes: Any
    input_shape: tuple[int, int, int]
    converted: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def _fit(
    model: nn.Module,
    weights: Weights,
    source: Origin | None,
    input_shape: Sequence[int] | None,
    wanted: int | None,
) -> _Fit:
    """Finds places in the model for the images that are given, or that arrays are for.

    Args:
      model: The model.
      weights: The arrays.
      source: Whose names they have, or None.
      input_shape: (height, width, channels) of the images, or None.
      wanted: The number of their channels, or None.

    Raises:
      ValueError: If the arrays are for images of another number of channels than wanted
        and for no RGB images, or as `placement.find_places` does.
    """
    said = weights.provenance.preprocessing.get("input_shape")
    shape = tuple(input_shape or said or sized_for(model))
    shape = (*shape[:-1], shape[-1] if wanted is None else wanted)
    fit = _fit_to(model, weights, source, shape)
    expected = trees.named_leaves(fit.shapes)
    filters = placement.other_filters(weights.arrays, fit.places, expected, shape[-1])
    if not filters:
        return fit
    (channels,) = set(filters.values())
    if wanted is None:
        return _fit_to(model, weights, source, (*shape[:-1], channels))
    if channels != RGB:
        raise ValueError(
            f"{weights.provenance.location}: got weights for images of "
            f"{_channels_text(channels)}, expected some for the model's images of "
            f"{_channels_text(wanted)}. Only filters for RGB are converted to another "
            f"number of channels: start from weights for {_channels_text(wanted)} or "
            f"for RGB, or give the model images of {_channels_text(channels)}."
        )
    places, converted = placement.converting(fit.places, filters, wanted)
    return dataclasses.replace(fit, places=places, converted=converted)


def _fit_to(
    model: nn.Module,
    weights: Weights,
    source: Origin | None,
    shape: tuple[int, int, int],
) -> _Fit:
    shapes = abstract_variables(model, _one_image(model, shape))
    expected = trees.named_leaves(shapes)
    source, places = placement.find_places(
        model, weights.arrays, source, expected, weights.provenance.location
    )
    return _Fit(source, places, shapes, shape)


def _channels_text(channels: int) -> str:
    names = {1: "1 channel (grey)", 3: "3 channels (RGB)"}
    return names.get(channels, f"{channels} channels")


def _num_classes(model: nn.Module) -> int | None:
    """Returns a model's number of classes, if it is one that has such a field."""
    return getattr(model, "num_classes", None)


def _initialize(
    model: nn.Module, shape: tuple[int, int, int], key: jax.Array
) -> dict[str, Any]:
    image = _one_image(model, shape)
    x = jnp.zeros(image.shape, image.dtype)
    variables: Any = model.init(key, x, train=False)
    return variables


def _one_image(model: nn.Module, shape: tuple[int, int, int]) -> jax.ShapeDtypeStruct:
    dtype = getattr(model, "param_dtype", jnp.float32)
    return jax.ShapeDtypeStruct((1, *shape), dtype)


def _initialize_leaves(
    model: nn.Module,
    shape: tuple[int, int, int],
    paths: Collection[str],
    key: jax.Array,
) -> dict[str, jax.Array]:
    # XLA drops all of the initialisation that is not returned.
    initialize = jax.jit(
        lambda key: {
            path: leaf
            for path, leaf in trees.named_leaves(_initialize(model, shape, key)).items()
            if path in paths
        }
    )
    return initialize(key)


def _check_head_may_differ(
    heads: Mapping[str, int],
    model_classes: int | None,
    num_classes: int | None,
    key: jax.Array | None,
    location: str,
) -> None:
    """Raises if a new last layer was not requested, or its key is missing."""
    if num_classes is None or key is None:
        stored = ", ".join(map(str, sorted(set(heads.values()))))
        lacking = "num_classes" if num_classes is None else "key"
        raise ValueError(
            f"{location}: {lacking}: got None, but the arrays are for {stored} classes "
            f"and not for the model's {model_classes} ({some(heads)}): pass "
            f"num_classes={stored} to keep them, or num_classes={model_classes} and a "
            "key to initialise a new last layer."
        )
