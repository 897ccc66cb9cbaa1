"""What `fit` is given, checked before anything is compiled or written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.training.config import TrainConfig

_SOURCE = (
    *("name", "split", "class_names", "features", "fingerprint"),
    *("__len__", "__getitem__"),
)


def check_source(name: str, source: Any) -> None:
    """Checks that a split is a source of labelled images.

    Args:
      name: Which argument of `fit` it is.
      source: What was given.

    Raises:
      ValueError: If it is something else.
    """
    # Without calling properties: a fingerprint reads the whole set.
    static = object()
    missing = [
        attribute
        for attribute in _SOURCE
        if inspect.getattr_static(source, attribute, static) is static
        and attribute not in getattr(source, "__dict__", {})
    ]
    if missing or isinstance(source, type):
        raise ValueError(
            f"{name}: got {_kind(source)}, expected a data.Dataset or another "
            "data.Source; arrays become one by data.Dataset(name, split, images, "
            "labels, class_names)."
        )


def check_is_model(model: Any) -> None:
    """Checks that a model has `init` and `apply`.

    Raises:
      ValueError: If it has not, or is a class.
    """
    hint = ""
    if isinstance(model, str):
        hint = f"; create_model({model!r}, num_classes=...) makes one by its name"
    elif isinstance(model, type):
        hint = f"; {model.__name__}() makes one"
    elif callable(getattr(model, "init", None)) and callable(
        getattr(model, "apply", None)
    ):
        return
    raise ValueError(
        f"model: got {_kind(model)}, expected a linen module, or an object with its "
        f"init and apply{hint}."
    )


def check_regularizers(model: Any, config: TrainConfig) -> None:
    """Checks that the regularisers of the configuration are the model's.

    Raises:
      ValueError: Listing those that the model has not, or has with another value.
    """
    problems = []
    for field, value in config.model_overrides().items():
        if not hasattr(model, field):
            problems.append(
                f"{field}: got {value} for {_name(model)}, which has no such field; "
                "expected None"
            )
        elif getattr(model, field) != value:
            problems.append(
                f"{field}: got {value} for {_name(model)}, whose own is "
                f"{getattr(model, field)}; expected None, or a model that was made "
                f"with {field}={value}"
            )
    if problems:
        raise ValueError(". ".join(problems) + ".")


def check_model(
    model: Any, image_shape: tuple[int, int, int], num_classes: int, dtype: Any
) -> None:
    """Checks what a model makes of images, by shapes alone.

    Args:
      model: Anything with linen's `init` and `apply`.
      image_shape: (height, width, channels).
      num_classes: How many logits the data needs.
      dtype: Of the images.

    Raises:
      ValueError: If it cannot be called as training calls it, or its output is not
        floating-point logits `(n, num_classes)`.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.dtype(dtype))
    key = jax.eval_shape(jax.random.key, 0)
    variables = _traced(
        model,
        images,
        lambda key, images: model.init(key, images, train=False),
        key,
        images,
    )
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError(
            f"model: got {_kind(variables)} from {_name(model)}'s init, expected "
            "{'params': ..., 'batch_stats': ...}."
        )
    others = sorted(set(variables) - {"params", "batch_stats"})
    if others:
        raise ValueError(
            f"model: got the variables {', '.join(others)} from {_name(model)}'s init, "
            "expected params and batch_stats alone, which training keeps."
        )

    def train(variables, images, key):
        found = model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        if not (isinstance(found, tuple) and len(found) == 2):
            raise ValueError(
                f"got {_kind(found)} with mutable=['batch_stats'], expected (logits, "
                "{'batch_stats': ...})"
            )
        return found[0]

    def evaluate(variables, images):
        return model.apply(variables, images, train=False)

    for function, arguments in (
        (evaluate, (variables, images)),
        (train, (variables, images, key)),
    ):
        try:
            logits = _traced(model, images, function, *arguments)
        except NameError as error:
            # Batch statistics over a mapped axis, which is there in training alone.
            if "axis name" in str(error):
                continue
            raise
        _check_logits(model, logits, num_classes)


def _check_logits(model: Any, logits: Any, num_classes: int) -> None:
    expected = f"logits (n, {num_classes}), one for each class of the training split"
    if not isinstance(logits, jax.ShapeDtypeStruct):
        raise ValueError(
            f"model: got {_kind(logits)} from {_name(model)}, expected one array of "
            f"{expected}."
        )
    if logits.shape != (2, num_classes):
        is_row_each = len(logits.shape) == 2 and logits.shape[0] == 2
        found = f"{logits.shape[1]} logits" if is_row_each else f"{list(logits.shape)}"
        hint = f"; make it with num_classes={num_classes}" if is_row_each else ""
        raise ValueError(
            f"model: got {found} from {_name(model)} for 2 images, expected "
            f"{expected}{hint}."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"model: got {logits.dtype} from {_name(model)}, expected floating-point "
            f"{expected}."
        )


def _traced(
    model: Any,
    images: jax.ShapeDtypeStruct,
    function: Callable[..., Any],
    *arguments: Any,
) -> Any:
    """Returns the shapes of a result; says of which model and images an error is."""
    try:
        return jax.eval_shape(function, *arguments)
    except NameError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        if isinstance(error, TypeError) and "'train'" in str(error):
            raise ValueError(
                f"model: got {_name(model)}, whose call takes no `train`; expected "
                "__call__(images, *, train), which says whether it is trained."
            ) from error
        raise ValueError(
            f"model: got {type(error).__name__} from {_name(model)} for images "
            f"{list(images.shape[1:])} (height, width, channels) of the training "
            f"split: {said[0] if said else error!r}"
        ) from error


def _name(model: Any) -> str:
    return type(model).__name__


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
