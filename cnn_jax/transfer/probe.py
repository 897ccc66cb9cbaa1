"""Linear probing: logistic regression on a network's features.

The mathematics of the fit stands in `logistic`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import trees
from cnn_jax.kernels.operands import class_indices
from cnn_jax.training.optimizers.roles import head_parameters
from cnn_jax.transfer import logistic

if TYPE_CHECKING:
    import flax.linen as nn

Parameters = dict[str, jax.Array]
"""`{"kernel": (d, classes), "bias": (classes,)}`: a dense layer's."""

Method = Literal["lbfgs", "sgd"]
"""Methods of `fit_logistic_regression`."""

METHODS: tuple[Method, ...] = get_args(Method)
"""All of them."""


class FitReport(NamedTuple):
    """The end of a fit.

    Attributes:
      loss: The objective, penalty included, over all examples.
      gradient_norm: The largest entry of its gradient in V and c, by magnitude.
      num_iterations: How many steps were taken.
      converged: Whether `gradient_norm` is within the tolerance.
    """

    loss: float
    gradient_norm: float
    num_iterations: int
    converged: bool


def fit_logistic_regression(
    features: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    num_classes: int,
    *,
    l2: float,
    method: Method = "lbfgs",
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
    key: jax.Array | None = None,
    epochs: int = 10,
    batch_size: int = 256,
    learning_rate: float | None = None,
    momentum: float = 0.9,
) -> tuple[Parameters, FitReport]:
    """Fits a linear classifier, in float32.

    L-BFGS sees all examples in each of its iterations; SGD one batch, and its learning
    rate falls to 0 along a half cosine.

    Args:
      features: Finite floating-point numbers `(n, d)`, at least one example.
      labels: Integers `(n,)`, each from 0 to `num_classes - 1`.
      num_classes: The number of classes, seen or not.
      l2: The weight of the penalty, at least 0. With 0 there may be no minimum.
      method: `"lbfgs"` or `"sgd"`.
      tolerance: When to stop: no entry of the gradient is larger. SGD takes all its
        steps whatever it reaches.
      max_iterations: When L-BFGS stops anyway; the report says whether it did.
      key: SGD's order of the examples; L-BFGS draws nothing.
      epochs: SGD's passes over the examples.
      batch_size: Its examples a step, at most all; those that are left over at an
        epoch's end wait for another.
      learning_rate: Its first learning rate, for V and c; None for 2 / (d + 3), where
        (d + 3) / 2 bounds the curvature.
      momentum: The weight of its former steps, from 0 to less than 1 (Nesterov's).

    Returns:
      `({"kernel", "bias"}, report)`. What did not converge is returned, and reported.

    Raises:
      ValueError: If an argument is not as described.

    Source: Liu and Nocedal, "On the Limited Memory BFGS Method for Large Scale
    Optimization", 1989.
    """
    features = jnp.asarray(features)
    if jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        labels = class_indices(labels)
    labels = jnp.asarray(labels)
    _check_examples(features, labels, num_classes)
    _check_options(l2, method, tolerance, max_iterations, key)
    labels, penalty = labels.astype(jnp.int32), jnp.float32(l2)
    scaled, means, factors = logistic.scale(features.astype(jnp.float32), penalty)
    examples = scaled, labels, factors, penalty
    width = scaled.shape[1]
    start = {
        "kernel": jnp.zeros((width, num_classes), jnp.float32),
        "bias": jnp.zeros((num_classes,), jnp.float32),
    }
    if method == "lbfgs":
        found, steps = logistic.minimize_by_lbfgs(
            start, examples, jnp.float32(tolerance), max_iterations
        )
    else:
        _check_sgd(epochs, batch_size, learning_rate, momentum)
        rate = 2 / (width + 3) if learning_rate is None else learning_rate
        found, steps = logistic.minimize_by_sgd(
            start,
            examples,
            key,
            jnp.float32(rate),
            jnp.float32(momentum),
            epochs,
            min(batch_size, len(scaled)),
        )
    loss, gradient = logistic.loss_and_gradient(found, *examples)
    gradient_norm = float(logistic.largest_entry(gradient))
    kernel = factors[:, None] * found["kernel"]
    parameters = {
        "kernel": kernel,
        "bias": found["bias"] - logistic.product(means, kernel),
    }
    return parameters, FitReport(
        float(loss), gradient_norm, int(steps), gradient_norm <= tolerance
    )


def with_head(
    model: Any,
    variables: Mapping[str, Any],
    parameters: Parameters,
    images: jax.ShapeDtypeStruct,
) -> Any:
    """Returns a model's variables with a linear classifier as the last layer.

    Args:
      model: A linen module with `num_classes` whose last layer is a dense one.
      variables: Its variables.
      parameters: `{"kernel": (d, classes), "bias": (classes,)}`, as from
        `feature_extraction`.
      images: Shape and dtype of a batch that the model takes.

    Raises:
      ValueError: If the model's head is not one dense layer of this shape.
    """
    head = head_parameters(model, images)
    specs = trees.leaf_specs(variables["params"])
    wanted = trees.leaf_specs(parameters)
    found = {path.rpartition("/")[2]: specs[path] for path in head}
    if len(head) != len(found) or found != wanted:
        raise ValueError(
            f"model: got the head { ({path: specs[path] for path in sorted(head)}) }, "
            f"expected one dense layer with {wanted}."
        )
    leaves = {
        path: parameters[path.rpartition("/")[2]] if path in head else leaf
        for path, leaf in trees.named_leaves(variables["params"]).items()
    }
    structure = jax.tree.structure(variables["params"])
    params = jax.tree.unflatten(structure, leaves.values())
    return {**variables, "params": params}


def extract_features(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[jax.Array | np.ndarray],
) -> np.ndarray:
    """Returns what the last layer would see, for every image.

    Args:
      model: A model with `num_classes=0`; `model.clone(num_classes=0)` makes one of
        any other. It runs in inference mode.
      variables: Its variables; those of a last layer are not read.
      batches: Normalised images `(b, height, width, channels)`. Compiled once if no
        batch is larger than the first, for all calls with an equal model.

    Returns:
      float32 `(n, d)` on the host, in the order of the images.

    Raises:
      ValueError: If the model has classes, or there is no batch.
    """
    num_classes = getattr(model, "num_classes", 0)
    if num_classes:
        raise ValueError(
            f"extract_features: got a model of {num_classes} classes, expected one "
            "with num_classes=0; use model.clone(num_classes=0)."
        )

    rows, size = [], 0
    for batch in batches:
        size = size or len(batch)
        missing = max(0, size - len(batch))
        padding = ((0, missing), *((0, 0),) * (batch.ndim - 1))
        padded = jnp.pad(batch, padding) if missing else batch
        rows.append(np.asarray(_features(model, variables, padded))[: len(batch)])
    if not rows:
        raise ValueError("extract_features: got no batch, expected at least one.")
    return np.concatenate(rows)


@functools.partial(jax.jit, static_argnums=0)
def _features(model, variables, images):
    return model.apply(variables, images, train=False).astype(jnp.float32)


def _check_examples(features, labels, num_classes):
    if (
        features.ndim != 2
        or len(features) == 0
        or not jnp.issubdtype(features.dtype, jnp.floating)
    ):
        raise ValueError(
            f"fit_logistic_regression: got features "
            f"{features.dtype}{list(features.shape)}, expected floating-point (n, d) "
            "with at least one example."
        )
    if labels.shape != features.shape[:1] or not jnp.issubdtype(
        labels.dtype, jnp.integer
    ):
        raise ValueError(
            f"fit_logistic_regression: got labels {labels.dtype}{list(labels.shape)}, "
            f"expected integers ({len(features)},)."
        )
    if num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"fit_logistic_regression: got labels from {labels.min()} to "
            f"{labels.max()} and num_classes {num_classes}, expected 0 to "
            "num_classes - 1 and at least two classes."
        )
    if not jnp.all(jnp.isfinite(features)):
        rows = np.flatnonzero(~np.isfinite(np.asarray(features)).all(axis=1))
        raise ValueError(
            f"fit_logistic_regression: got features that are not finite in "
            f"{len(rows)} of {len(features)} examples, the first at index {rows[0]}."
        )


def _check_options(l2, method, tolerance, max_iterations, key):
    if method not in METHODS:
        raise ValueError(
            f"fit_logistic_regression: got method {method!r}, expected one of "
            f"{', '.join(METHODS)}."
        )
    if not 0 <= l2 < float("inf"):
        raise ValueError(
            f"fit_logistic_regression: got l2 {l2}, expected a finite number of at "
            "least 0."
        )
    if not tolerance > 0 or max_iterations < 1:
        raise ValueError(
            f"fit_logistic_regression: got tolerance {tolerance} and max_iterations "
            f"{max_iterations}, expected positive numbers."
        )
    if (method == "sgd") != (key is not None):
        wanted = "a key" if method == "sgd" else "none: it draws nothing"
        raise ValueError(
            f"fit_logistic_regression: got key {key} for {method}, expected {wanted}."
        )


def _check_sgd(epochs, batch_size, learning_rate, momentum):
    rate_is_fine = learning_rate is None or 0 < learning_rate < float("inf")
    if epochs < 1 or batch_size < 1 or not rate_is_fine or not 0 <= momentum < 1:
        raise ValueError(
            f"fit_logistic_regression: got epochs {epochs}, batch_size {batch_size}, "
            f"learning_rate {learning_rate}, momentum {momentum}, expected positive "
            "numbers and a momentum from 0 to less than 1."
        )
