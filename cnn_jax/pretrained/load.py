"""Filling a model's variables from arrays that another library named.

Everything is checked before anything is returned: each array must have a place, each
place an array of its shape. One error lists all that does not fit. Names, shapes and
dtypes are checked before any array is read, the numbers as they are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import trees
from cnn_jax.models import create_model
from cnn_jax.models.registry import sized_for
from cnn_jax.pretrained import placement
from cnn_jax.pretrained.files import describe_own, open_weights
from cnn_jax.pretrained.report import ConversionReport, some
from cnn_jax.pretrained.rules import Origin


def load_pretrained(
    model_or_name: nn.Module | str,
    path: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: Origin | None = None,
    num_classes: int | None = None,
    key: jax.Array | None = None,
) -> tuple[dict[str, Any], ConversionReport]:
    """Returns a model's variables, filled with weights trained elsewhere.

    No file can run code here, and none makes more memory be used than the model needs.

    Args:
      model_or_name: A model, or its name in `list_models()`.
      path: What holds the weights:
        a `.safetensors` file of PyTorch's or our own names;
        a `.npz` file of any names;
        a `.weights.h5` or `.h5` file of Keras (needs the extra `keras-files`);
        a `.pth`, `.pt`, `.bin` or `.tar` file of PyTorch (needs the extra `torch`);
        a directory that `cnn-jax convert` wrote;
        the directory of a training run, whose best checkpoint is taken, or the newest
        without a validation split; its `checkpoints`, or one step in there;
        `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`, a repository on the
        Hugging Face Hub with a `model.safetensors` (needs the extra `hub`);
        or a mapping from names to arrays or PyTorch tensors, such as a state dict or
        a checkpoint that has one inside.
      source: Whose names the arrays have: `"torchvision"`, `"timm"`, `"keras"`, or
        `"cnn_jax"` for the '/'-joined paths used here. None finds out.
      num_classes: The number of logits, to go with a name. None, or the number that
        the file has, keeps its last layer; another number initialises a new one.
        A `Module` has its own number.
      key: A key for the new last layer, needed if there is one.

    Returns:
      The variables, `{"params": ..., "batch_stats": ...}`, and the report.

    Raises:
      FileNotFoundError: If there is no such file, here or on the Hub.
      ImportError: If what reads such a file is not installed.
      ValueError: If the file is damaged, no names fit, or any array is missing,
        unexpected, of another shape or not of floating-point numbers; the message
        lists them all. If all that is in order but some values are not finite, or too
        large for the model's dtype; likewise. Or if the arguments contradict each
        other.
    """
    if not isinstance(model_or_name, nn.Module):
        known = describe_own(path)
        if known is not None:
            known.require_name(path)
        model = create_model(model_or_name, num_classes=num_classes)
    elif num_classes is None:
        model = model_or_name
        num_classes = model.num_classes
    else:
        raise ValueError(
            f"num_classes: got {num_classes} beside a model, which has its own; pass "
            "one of them."
        )
    shapes = jax.eval_shape(
        lambda key: _initialize(model, key), jax.eval_shape(jax.random.key, 0)
    )
    expected = trees.named_leaves(shapes)
    with open_weights(path) as weights:
        source, places = placement.find_places(model, weights.arrays, source, expected)
        plan = placement.plan(weights.arrays, places, expected, model.num_classes)
        if plan.heads:
            _check_head_may_differ(plan.heads, model.num_classes, num_classes, key)
        values = placement.read(weights.arrays, plan.places, expected)
        loaded = {
            name: place.path
            for name, place in plan.places.items()
            if place.path is not None
        }
        dtypes = {path: weights.arrays[name].dtype for name, path in loaded.items()}
    if plan.heads:
        assert key is not None  # checked above
        values |= _initialize_leaves(model, plan.heads, key)
    variables = jax.tree.unflatten(
        jax.tree.structure(shapes), [values[path] for path in expected]
    )
    return variables, ConversionReport(
        source=source,
        loaded=loaded,
        ignored=(*weights.ignored, *plan.ignored),
        cast={
            path: (dtype, str(expected[path].dtype))
            for path, dtype in dtypes.items()
            if dtype != expected[path].dtype
        },
        initialized=tuple(plan.heads),
        provenance=weights.provenance,
    )


def _initialize(model: nn.Module, key: jax.Array) -> dict[str, Any]:
    dtype = getattr(model, "param_dtype", jnp.float32)
    x = jnp.zeros((1, *sized_for(model)), dtype)
    variables: Any = model.init(key, x, train=False)
    return variables


def _initialize_leaves(
    model: nn.Module, paths: Collection[str], key: jax.Array
) -> dict[str, jax.Array]:
    # XLA drops all of the initialisation that is not returned.
    initialize = jax.jit(
        lambda key: {
            path: leaf
            for path, leaf in trees.named_leaves(_initialize(model, key)).items()
            if path in paths
        }
    )
    return initialize(key)


def _check_head_may_differ(
    heads: Mapping[str, int],
    model_classes: int,
    num_classes: int | None,
    key: jax.Array | None,
) -> None:
    """Raises if nobody asked for a new last layer, or nobody gave its key."""
    if num_classes is None or key is None:
        stored = ", ".join(map(str, sorted(set(heads.values()))))
        lacking = "num_classes" if num_classes is None else "key"
        raise ValueError(
            f"{lacking}: got None, but the arrays are for {stored} classes and not "
            f"for the model's {model_classes} ({some(heads)}): pass "
            f"num_classes={stored} to keep them, or num_classes={model_classes} and a "
            "key to initialise a new last layer."
        )
