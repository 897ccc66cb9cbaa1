"""One training step of a network, in every way that it can be computed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import kernels as K
from cnn_jax.doctor.numerics.taps import Noise, Place, Side, Taps, kernels_of
from cnn_jax.layers import abstract_variables


@dataclasses.dataclass(frozen=True)
class Way:
    """A way in which a step is computed.

    Attributes:
      side: By which functions.
      is_jitted: In one program, or op by op.
      dtype: `"float32"` or `"float64"`.
      is_recorded: Whether each layer's results are kept, which the compiler must then
        make; else the program is the one that training runs.
    """

    side: Side
    is_jitted: bool
    dtype: str
    is_recorded: bool = True

    def __str__(self) -> str:
        side = {"ours": "kernels", "twins": "plain lax"}[self.side]
        how = "jitted" if self.is_jitted else "op by op"
        return f"{side}, {how}, {self.dtype}" + (
            "" if self.is_recorded else ", unrecorded"
        )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Variables, images and labels of a step.

    Attributes:
      variables: The network's, in float32.
      images: Normalised `(n, height, width, channels)`, float32.
      labels: Integers `(n,)`.
    """

    variables: Mapping[str, Any]
    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Computed:
    """The results of a step, as NumPy arrays.

    Attributes:
      places: Where the arrays of `values` and `gradients` come from; none if the step
        was not recorded.
      values: The results, of the places that have a value.
      gradients: The gradients at all places.
      loss: The mean loss.
      parameters: The gradient of each parameter, by its path.
    """

    places: tuple[Place, ...]
    values: list[np.ndarray]
    gradients: list[np.ndarray]
    loss: np.ndarray
    parameters: dict[str, np.ndarray]


def compute(
    model: Callable[[Any], nn.Module],
    batch: Batch,
    way: Way,
    noise: Noise | None = None,
) -> Computed:
    """Runs forward pass, loss and backward pass.

    Args:
      model: Returns the network for a dtype.
      batch: What it is computed from.
      way: How.
      noise: Rounds every recorded result once more; None for nothing.
    """
    with _precision(way.dtype):
        network = model(jnp.dtype(way.dtype))
        params, others, images = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf, way.dtype)),
            (
                batch.variables["params"],
                {k: v for k, v in batch.variables.items() if k != "params"},
                batch.images,
            ),
        )
        labels = jnp.asarray(batch.labels)
        if not way.is_recorded:
            return _plain(network, params, others, images, labels, way)
        first = _first_pass(network, params, others, images, labels, way)
        probes = [
            jnp.asarray(np.zeros(place.shape, way.dtype)) for place in first.places
        ]

        def loss_of(params, probes, others, images, labels):
            taps = Taps(first, probes, noise)
            loss = _loss(network, taps, way.side, params, others, images, labels)
            return loss, taps.values

        gradient_of = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
        (loss, values), (of_parameters, of_places) = _run(
            gradient_of, way, params, probes, others, images, labels
        )
        return Computed(
            tuple(first.places),
            [np.asarray(each) for each in values],
            [np.asarray(each) for each in of_places],
            np.asarray(loss),
            _by_path(of_parameters),
        )


def initial(model: nn.Module, shape: tuple[int, ...], seed: int) -> Batch:
    """Draws images, labels and variables, of which none is 0 or 1.

    Scales of 1 and biases of 0 would hide what they are multiplied with and added to,
    and a scale of 0 all that is behind it.

    Args:
      model: The network, in float32.
      shape: `(n, height, width, channels)`.
      seed: Of all that is drawn.
    """
    generator = np.random.default_rng(seed)
    images = generator.standard_normal(shape, np.float32)
    abstract = abstract_variables(model, jax.ShapeDtypeStruct(shape, np.float32))
    logits = jax.eval_shape(
        lambda variables: model.apply(variables, images, train=False), abstract
    )

    def draw(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if leaf.ndim > 1:
            width = np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
            drawn = width * generator.standard_normal(leaf.shape)
        elif name in ("bias", "mean"):
            drawn = generator.uniform(-0.5, 0.5, leaf.shape)
        else:
            drawn = generator.uniform(0.5, 1.5, leaf.shape)
        return drawn.astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, abstract)
    labels = generator.integers(logits.shape[-1], size=shape[0]).astype(np.int32)
    return Batch(variables, images, labels)


def _plain(network, params, others, images, labels, way) -> Computed:
    def loss_of(params, others, images, labels):
        logits, new = _apply(network, params, others, images)
        loss = K.softmax_cross_entropy(logits, labels).mean()
        return loss, new

    with kernels_of(way.side):
        (loss, _), gradients = _run(
            jax.value_and_grad(loss_of, has_aux=True),
            *(way, params, others, images, labels),
        )
    return Computed((), [], [], np.asarray(loss), _by_path(gradients))


def _run(function, way: Way, *arguments: Any) -> Any:
    if way.is_jitted:
        return jax.jit(function)(*arguments)
    with jax.disable_jit():
        return function(*arguments)


def _first_pass(network, params, others, images, labels, way: Way) -> Taps:
    taps = Taps()
    jax.eval_shape(
        lambda *arrays: _loss(network, taps, way.side, *arrays),
        *(params, others, images, labels),
    )
    return taps


def _loss(network, taps: Taps, side: Side, params, others, images, labels):
    with taps.recording(side):
        logits, _ = _apply(network, params, others, images)
        return K.softmax_cross_entropy(logits, labels).mean()


def _apply(network, params, others, images):
    return network.apply(
        {"params": params, **others},
        images,
        train=True,
        mutable=list(others),
        # Nothing is drawn: what draws is left out.
        rngs={"dropout": jax.random.key(0)},
    )


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def reference_device() -> Any:
    """Returns the `jax.Device` that computes in float64.

    Raises:
      ValueError: If it would be the CPU and JAX may not use it.
    """
    if jax.default_backend() != "tpu":
        return jax.local_devices()[0]
    try:
        return jax.local_devices(backend="cpu")[0]  # a TPU has no float64
    except RuntimeError as error:
        raise ValueError(
            f"JAX_PLATFORMS: got {jax.config.jax_platforms!r}; set "  # type: ignore[attr-defined]
            "JAX_PLATFORMS=tpu,cpu: the reference is computed on the CPU."
        ) from error


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """Computes in a dtype: float64 where there is one, and products no narrower."""
    if dtype == "float64":
        with jax.enable_x64(True), _on_reference_device():
            yield
        return
    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        yield


@contextlib.contextmanager
def _on_reference_device() -> Iterator[None]:
    device = reference_device()
    with jax.default_device(device), K.target_platform(device.platform):
        yield
