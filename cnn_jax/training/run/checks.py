"""Checks of the arguments of `fit`, before anything is compiled or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import data, trees
from cnn_jax.layers import init_variables
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optimizers.optimizer import adapt_optimizer
from cnn_jax.training.optimizers.roles import ParameterRoles
from cnn_jax.training.step.evaluation import (
    RESERVED,
    LossFn,
    MetricFns,
    losses_of,
)
from cnn_jax.training.step.training import StepOptions


def check_source(name: str, source: Any) -> None:
    """Checks that a split is a source of labelled images.

    Args:
      name: Which argument it is.
      source: What was given.

    Raises:
      ValueError: If it is something else.
    """
    if not data.is_source(source):
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
    model: Any, image_shape: tuple[int, ...], num_classes: int, dtype: Any
) -> dict[str, Any]:
    """Checks a model's variables and logits, by shapes alone.

    Args:
      model: Anything with linen's `init` and `apply`.
      image_shape: (height, width, channels).
      num_classes: How many logits the data needs.
      dtype: Of the images.

    Returns:
      The shapes and dtypes of its variables.

    Raises:
      ValueError: If it cannot be called as training calls it, or its output is not
        floating-point logits `(n, num_classes)`.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.dtype(dtype))
    key = jax.eval_shape(jax.random.key, 0)
    variables = _abstract_variables(model, images)

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

    for function, arguments in (
        (_inference(model), (variables, images)),
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
    return variables


def num_logits(model: Any, image_shape: tuple[int, ...], dtype: Any) -> int:
    """Returns how many logits a model gives, by shapes alone.

    Raises:
      ValueError: If it cannot be called as training calls it, or its output has no
        second dimension.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.dtype(dtype))
    variables = _abstract_variables(model, images)
    logits = _traced(model, images, _inference(model), variables, images)
    if len(getattr(logits, "shape", ())) != 2:
        _check_logits(model, logits, "classes")
    return logits.shape[1]


def check_losses(
    config: TrainConfig,
    num_classes: int,
    loss_fn: LossFn | None,
    metrics: MetricFns | None,
) -> None:
    """Checks a loss function and metrics of the caller's own, by shapes alone.

    Args:
      config: The run's configuration.
      num_classes: How many logits the model gives.
      loss_fn: The loss function, or None.
      metrics: The metrics by name, or None.

    Raises:
      ValueError: If one is no function of logits and labels that returns one number per
        example, has a name that is taken, or the configuration smooths labels that
        only the loss function sees.
    """
    # It refuses a loss function with label smoothing.
    StepOptions(loss_fn=loss_fn, label_smoothing=config.label_smoothing)
    taken = sorted(set(metrics or {}) & set(RESERVED))
    if taken:
        raise ValueError(
            f"metrics: got {', '.join(taken)}, which are reported anyway; expected "
            "other names."
        )
    mixes = config.mixup_alpha or config.cutmix_alpha
    logits = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
    integers = jax.ShapeDtypeStruct((2,), jnp.int32)
    given = {} if loss_fn is None else {"loss_fn": loss_fn}
    given |= {f"metrics[{name!r}]": each for name, each in (metrics or {}).items()}
    for name, function in given.items():
        if not callable(function):
            raise ValueError(
                f"{name}: got {_kind(function)}, expected a function of logits and "
                "labels."
            )
        # Training on mixed images has probabilities for labels, evaluation never.
        for labels in (
            (integers, logits) if mixes and name == "loss_fn" else (integers,)
        ):
            try:
                jax.eval_shape(
                    lambda logits, labels, function=function, name=name: losses_of(
                        function, logits, labels, name=name
                    ),
                    logits,
                    labels,
                )
            except Exception as error:
                if isinstance(error, ValueError) and str(error).startswith(name):
                    raise
                raise ValueError(
                    f"{name}: got {type(error).__name__} for logits "
                    f"{logits.dtype}{[*logits.shape]} and labels "
                    f"{labels.dtype}{[*labels.shape]}: {_first_line(error)}"
                ) from error


def check_optimizer(
    config: TrainConfig, optimizer: optax.GradientTransformation | None, params: Any
) -> None:
    """Checks an optimizer of the caller's own, by shapes alone.

    Raises:
      ValueError: If it is none, the configuration asks for another one's settings, or
        its update needs more than gradients, state and parameters.
    """
    if optimizer is None:
        return
    adapted = adapt_optimizer(optimizer, config, roles=ParameterRoles())
    try:
        updates, _ = jax.eval_shape(
            lambda params: adapted.update(params, adapted.init(params), params), params
        )
    except Exception as error:
        raise ValueError(
            f"optimizer: got {type(error).__name__} from its update of gradients, "
            f"state and parameters, which is what a run gives it: {_first_line(error)}"
        ) from error
    if trees.leaf_specs(updates).keys() != trees.leaf_specs(params).keys():
        raise ValueError(
            "optimizer: got updates of another tree than the parameters', expected one "
            "update for each."
        )


def _check_logits(model: Any, logits: Any, num_classes: int | str) -> None:
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


def _abstract_variables(model: Any, images: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Returns the shapes and dtypes of a model's variables, which training keeps."""
    variables = _traced(
        model,
        images,
        lambda key, images: init_variables(model, key, images),
        jax.eval_shape(jax.random.key, 0),
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
    return dict(variables)


def _inference(model: Any) -> Callable[..., Any]:
    return lambda variables, images: model.apply(variables, images, train=False)


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
        if isinstance(error, TypeError) and "'train'" in str(error):
            raise ValueError(
                f"model: got {_name(model)}, whose call takes no `train`; expected "
                "__call__(images, *, train), which says whether it is trained."
            ) from error
        raise ValueError(
            f"model: got {type(error).__name__} from {_name(model)} for images "
            f"{list(images.shape[1:])} (height, width, channels) of the training "
            f"split: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _name(model: Any) -> str:
    return type(model).__name__


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
