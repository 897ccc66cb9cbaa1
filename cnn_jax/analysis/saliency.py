"""Saliency maps: Grad-CAM and guided backpropagation.

Both return plain arrays and can be jitted, with the model closed over:
`jax.jit(functools.partial(grad_cam, model, endpoint="stage4"))(variables, images)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cnn_jax.analysis.endpoints import TracedNetwork, Variables
from cnn_jax.kernels.activation.guided import guided_gradients, guided_sign
from cnn_jax.kernels.operands import class_indices

ClassIndex = int | np.ndarray | jax.Array | None
"""A class for all images, one for each, or None for those with the largest logits."""


def grad_cam(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    *,
    endpoint: str | None = None,
    class_index: ClassIndex = None,
) -> jax.Array:
    """Computes Grad-CAM: where an endpoint's channels increase a class's logit.

    With activations A `(h, w, c)` of one image and the logit y of the class, before any
    softmax, each channel weighs as much as y grows with it on average over the
    positions, and the map is the weighted sum where that is positive:

        alpha_c = mean over i, j of dy / dA_ijc,    L_ij = relu(sum_c alpha_c A_ijc).

    Args:
      model: A model with the call `(x, *, train, endpoints)`; it runs in inference
        mode.
      variables: Its variables.
      images: Normalised images `(n, height, width, channels)`.
      endpoint: Which activations, of shape `(n, h, w, c)`; None for the last such.
      class_index: The class: an integer, integers `(n,)`, or None for the predicted
        one.

    Returns:
      `(n, h, w)`, at least 0 and of no particular scale, in float32, or float64 where
      the activations are. Endpoints on which the logits depend linearly and equally at
      all positions (the last one before global pooling) give the class's share of the
      logit at each.

    Raises:
      ValueError: If there is no such endpoint, it has no positions, or a class is out
        of range.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", 2017.
    """
    network = TracedNetwork(model, variables, images)
    endpoint = network.maps[-1] if endpoint is None else endpoint
    activations, logits_fn = network.cut(endpoint, variables, images)
    if activations.ndim != 4:
        raise ValueError(
            f"endpoint: got {endpoint!r} of shape {activations.shape}, expected "
            f"(n, h, w, c): one of {list(network.maps)}."
        )
    logits, pull_back = jax.vjp(logits_fn, activations)
    (gradient,) = pull_back(_select(logits, class_index))
    dtype = jnp.promote_types(activations.dtype, jnp.float32)
    weights = jnp.mean(gradient.astype(dtype), axis=(1, 2), keepdims=True)
    return jnp.maximum(jnp.sum(weights * activations.astype(dtype), axis=-1), 0)


def guided_backpropagation(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    class_index: ClassIndex = None,
) -> jax.Array:
    """Computes guided backpropagation of a class's logit to the pixels.

    The gradient of the class's logit with respect to the image, except that a relu
    passes only positive gradients, and those only where its input was positive; see
    `kernels.activation.guided`. relu6 follows the same rule between its corners;
    activations of other kinds, in a network that mixes them, keep their derivatives.

    Args:
      model: A model with the call `(x, *, train)`; it runs in inference mode, and its
        relus are the kernels `relu` and `relu6`.
      variables: Its variables.
      images: Normalised images `(n, height, width, channels)`.
      class_index: As for `grad_cam`.

    Returns:
      The shape and dtype of `images`, of either sign.

    Raises:
      ValueError: If no relu kernel stands between the images and the logits, or a class
        is out of range.

    Source: Springenberg et al., "Striving for Simplicity: The All Convolutional Net",
    2015.
    """

    def gradient(variables, images):
        def logits_of(images) -> Any:
            return model.apply(variables, images, train=False)

        logits, pull_back = jax.vjp(logits_of, images)
        return pull_back(_select(logits, class_index))[0]

    with guided_gradients():
        program = jax.make_jaxpr(gradient)(variables, images)
    names = {equation.params.get("name") for equation in _equations(program.jaxpr)}
    if guided_sign.__name__ not in names:  # type: ignore[attr-defined]
        raise ValueError(
            f"guided_backpropagation: got a {type(model).__name__} without the kernels "
            "relu or relu6, expected a network of relus: the rule would be the plain "
            "gradient. Use grad_cam, or apply cnn_jax.kernels.relu in the model."
        )
    return core.jaxpr_as_fun(program)(*jax.tree.leaves((variables, images)))[0]


def _select(logits: jax.Array, class_index: ClassIndex) -> jax.Array:
    """Returns the cotangent that selects each image's class, `(n, classes)`."""
    batch, num_classes = logits.shape
    if class_index is None:
        chosen = jnp.argmax(logits, axis=-1)
    else:
        _check_classes(class_index, batch, num_classes)
        chosen = jnp.broadcast_to(class_indices(class_index), (batch,))
    return jax.nn.one_hot(chosen, num_classes, dtype=logits.dtype)


def _check_classes(
    class_index: jax.typing.ArrayLike, batch: int, num_classes: int
) -> None:
    shape, traced = jnp.shape(class_index), isinstance(class_index, jax.core.Tracer)
    dtype = jnp.result_type(class_index)
    if shape not in ((), (batch,)) or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"class_index: got {dtype}{list(shape)}, expected an integer, or integers "
            f"of shape ({batch},)."
        )
    # Values that are being traced are not known yet.
    if traced:
        return
    values = np.asarray(class_index)
    if np.any((values < 0) | (values >= num_classes)):
        raise ValueError(
            f"class_index: got {class_index}, expected 0 to {num_classes - 1}."
        )


def _equations(program: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in program.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)
