"""The results and gradients of each layer, recorded while a network runs.

Every call of a kernel (`cnn_jax.kernels`) and every call of a module is a place. There
the result is recorded, and the gradient of the loss with respect to it; and for a
kernel, the gradients that its VJP returns, one for each array that it was given. So a
wrong result has the name of the layer that made it, and a wrong gradient that of the
layer whose VJP made it.

A gradient is caught by a function that is the identity and hands what is pulled back
through it to a second argument, too: nothing is added to what the network computes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import kernels as K
from cnn_jax.kernels.activation.fused import is_fused
from cnn_jax.layers import conv_norm, squeeze_excite

Side = Literal["ours", "twins"]
"""Whose functions compute: the kernels, or their twins in `kernels.autodiff`."""

RANDOM = ("dropout", "spatial_dropout", "stochastic_depth", "drop_block")
"""Kernels that are left out: their masks are others in float64."""

ACTIVATIONS = (
    *("relu", "relu6", "silu", "gelu", "sigmoid"),
    *("hard_swish", "hard_sigmoid"),
)
"""Kernels that other kernels know by identity, and apply themselves."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One array that is recorded.

    Attributes:
      layer: The path of the module that computes it, '/'-joined, and the kernel that it
        calls, if it is one.
      role: `"output"` for what the layer returns; else the name of the argument.
      has_value: Whether its value is recorded, too, not the gradient alone.
      shape: Its shape.
    """

    layer: str
    role: str
    has_value: bool
    shape: tuple[int, ...]


class Taps:
    """Records places in the order in which a network reaches them.

    Attributes:
      places: What was recorded.
      values: The arrays of those places that have a value.
      seen: Whether each array that was met had been recorded before, in order: another
        pass takes it from the first one, since JAX may return an array as it is or
        make another of it.
    """

    def __init__(
        self,
        first: Taps | None = None,
        probes: Sequence[Any] | None = None,
        noise: Noise | None = None,
    ):
        """Prepares one pass through a network.

        Args:
          first: Those of the first pass, which found the places; None in that one.
          probes: An array for each place, which the gradient is taken with respect to;
            None in the first pass.
          noise: Rounds every result and its gradient once more; None for nothing.
        """
        self.places: list[Place] = []
        self.values: list[jax.Array] = []
        self.seen: list[bool] = []
        self._probes, self._noise = probes, noise
        self._first = None if first is None else iter(first.seen)
        self._path: list[str] = []
        self._last: list[Any] = []

    @contextlib.contextmanager
    def recording(self, side: Side) -> Iterator[None]:
        """Records what is computed within the block, by the functions of one side.

        The functions of `cnn_jax.kernels` are replaced meanwhile, for all threads.
        """
        with (
            _kernels(side, self._recorded),
            nn.intercept_methods(self._intercept(side)),
        ):
            yield

    def _recorded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            layer = f"{'/'.join(self._path) or 'the model'} ({name})"
            args = tuple(
                self._tap(layer, role, value, is_result=False)
                for role, value in zip(names, args, strict=False)
            )
            return self._results(layer, function(*args, **kwargs))

        return call

    def _intercept(self, side: Side) -> Callable[..., Any]:
        def intercept(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "__call__":
                return next_fn(*args, **kwargs)
            before, self._path = self._path, list(context.module.path)
            try:
                with _twin_fields(context.module, side):
                    result = next_fn(*args, **kwargs)
                return self._results("/".join(self._path) or "the model", result)
            finally:
                self._path = before

        return intercept

    def _results(self, layer: str, result: Any) -> Any:
        leaves, structure = jax.tree.flatten(result)
        if leaves and self._is_known(leaves[0]):
            return result  # of a kernel, which recorded it
        leaves = [self._tap(layer, "output", leaf, is_result=True) for leaf in leaves]
        return jax.tree.unflatten(structure, leaves)

    def _is_known(self, value: Any) -> bool:
        if self._first is None:
            known = any(value is last for last in self._last)
        else:
            known = next(self._first)
        self.seen.append(known)
        return known

    def _tap(self, layer: str, role: str, value: Any, *, is_result: bool) -> Any:
        if not (
            isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)
        ):
            return value
        # The first argument is the image; the others are parameters.
        has_value = is_result or (role in ("x", "logits") and not self._is_known(value))
        number = len(self.places)
        self.places.append(Place(layer, role, has_value, value.shape))
        probe = None if self._probes is None else self._probes[number]
        if self._noise is not None and is_result:
            tapped = _tap_with(value, probe, *self._noise.draw(number, value.shape))
        else:
            tapped = _tap_alone(value, probe)
        if has_value:
            self.values.append(tapped)
        if is_result:
            self._last = [*self._last[-64:], tapped]
        return tapped


@dataclasses.dataclass(frozen=True)
class Noise:
    """Rounding errors of one size, drawn.

    Attributes:
      size: Their standard deviation, relative to what is rounded.
      seed: Which of them.
    """

    size: float
    seed: int

    def draw(
        self, number: int, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns factors for an array, and for its gradient."""
        generator = np.random.default_rng((self.seed, number))
        forward, backward = generator.standard_normal((2, *shape))
        return 1.0 + self.size * forward, 1.0 + self.size * backward


@jax.custom_vjp
def _tap_alone(value, probe):
    return value


def _tap_alone_fwd(value, probe):
    return value, None


def _tap_alone_bwd(_, gradient):
    return gradient, gradient


_tap_alone.defvjp(_tap_alone_fwd, _tap_alone_bwd)


@jax.custom_vjp
def _tap_with(value, probe, forward, backward):
    return value * forward


def _tap_with_fwd(value, probe, forward, backward):
    return value * forward, (forward, backward)


def _tap_with_bwd(factors, gradient):
    forward, backward = factors
    rounded = gradient * backward
    return rounded * forward, rounded, None, None


_tap_with.defvjp(_tap_with_fwd, _tap_with_bwd)


@contextlib.contextmanager
def kernels_of(side: Side) -> Iterator[None]:
    """Has networks run on the functions of one side, and records nothing."""

    def intercept(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        with _twin_fields(context.module, side):
            return next_fn(*args, **kwargs)

    with (
        _kernels(side, lambda name, function: function),
        nn.intercept_methods(intercept),
    ):
        yield


@contextlib.contextmanager
def _kernels(
    side: Side, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replaces the functions of `cnn_jax.kernels`."""
    before = {name: getattr(K, name) for name in K.autodiff.__all__}
    try:
        for name, function in before.items():
            if name in RANDOM:
                function = _unchanged
            elif name in ACTIVATIONS:
                function = _ActivationTwin(function) if side == "twins" else function
            else:
                twin = getattr(K.autodiff, name)
                function = wrap(name, twin if side == "twins" else function)
            setattr(K, name, function)
        for module in _FUSING:
            module.is_fused = _is_fused
        yield
    finally:
        for name, function in before.items():
            setattr(K, name, function)
        for module in _FUSING:
            module.is_fused = is_fused


def _unchanged(x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    return x


@contextlib.contextmanager
def _twin_fields(module: nn.Module, side: Side) -> Iterator[None]:
    """Replaces the kernels that a module was made with, such as its activation."""
    found: dict[str, Any] = {}
    if side == "twins":
        for field in dataclasses.fields(module):
            value = getattr(module, field.name, None)
            twin = _twin(value)
            if twin is not value:
                found[field.name] = value
                object.__setattr__(module, field.name, twin)
    try:
        yield
    finally:
        for name, value in found.items():
            object.__setattr__(module, name, value)


def _twin(value: Any) -> Any:
    if isinstance(value, functools.partial):
        twin = _twin(value.func)
        if twin is value.func:
            return value
        return functools.partial(twin, *value.args, **value.keywords)
    name = getattr(value, "__name__", None)
    is_kernel = name in ACTIVATIONS and value is _ACTIVATIONS[name]
    return _ActivationTwin(value) if is_kernel else value


class _ActivationTwin:
    """The twin of an activation, which layers fuse where they fuse the activation.

    The twin of the kernel that they hand it to finds it by its name.
    """

    def __init__(self, activation: Callable[..., Any]):
        self._activation = activation
        self.__name__ = activation.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(K.autodiff, self.__name__)(*args, **kwargs)


def _is_fused(activation: object) -> bool:
    return isinstance(activation, _ActivationTwin) or is_fused(activation)


# The modules that decide by it: a network's layers must not depend on the side.
_FUSING: tuple[Any, ...] = (conv_norm, squeeze_excite)
_ACTIVATIONS = {name: getattr(K, name) for name in ACTIVATIONS}
