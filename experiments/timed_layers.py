"""One layer, forward and backward, by several implementations."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timed import Call

from cnn_jax import kernels as K

LOOPS, OWN, PLAIN, TORCH = "NumPy loops", "our kernels", "XLA's own forms", "PyTorch"


def torch_device() -> str | None:
    """Returns the device that PyTorch shares with JAX; None where there is none."""
    if importlib.util.find_spec("torch") is None:
        return None
    backend = jax.default_backend()
    if backend == "gpu":
        import torch

        return "cuda" if torch.cuda.is_available() else None
    return "cpu" if backend == "cpu" else None


def by_loops(is_smoke: bool) -> dict[str, Call]:
    """Returns a small convolution with its gradients, by loops and by kernels."""
    side = 4 if is_smoke else 12
    generator = np.random.default_rng(0)
    x, w = (
        generator.normal(size=(1, side, side, 4)),
        generator.normal(size=(3, 3, 4, 8)),
    )
    dy = generator.normal(size=(1, side, side, 8))

    def loops() -> tuple[Any, ...]:
        textbook, same = K.textbook, {"padding": "SAME"}
        return (
            textbook.conv(x, w, **same),
            textbook.conv_input_grad(dy, w, input_shape=x.shape, **same),
            textbook.conv_filter_grad(x, dy, filter_shape=w.shape, **same),
        )

    arrays = tuple(jnp.asarray(each, jnp.float32) for each in (x, w))
    kernel = _program(functools.partial(K.conv, padding="SAME"), arrays)
    return {LOOPS: Call(loops, 1), OWN: Call(kernel, 1)}


def layer(
    kernel: str,
    shape: tuple[int, ...],
    others: Mapping[str, tuple[int, ...]],
    torch_call: Callable[..., Any],
    **options: Any,
) -> Callable[[bool], dict[str, Call]]:
    """Returns what makes the calls of one layer, forward and backward.

    Args:
      kernel: Its name in `cnn_jax.kernels`.
      shape: `(n, height, width, c)`; a trial takes two images.
      others: Name -> shape of the other arrays.
      torch_call: Takes PyTorch's functions, x and the others; computes the same.
      **options: Of the kernel.
    """

    def make(is_smoke: bool) -> dict[str, Call]:
        n = 2 if is_smoke else shape[0]
        keys = jax.random.split(jax.random.key(0), 1 + len(others))
        arrays = tuple(
            jax.random.normal(key, each)
            for key, each in zip(keys, ((n, *shape[1:]), *others.values()), strict=True)
        )
        calls = {
            label: Call(_program(functools.partial(fn, **options), arrays), n)
            for label, fn in (
                (OWN, getattr(K, kernel)),
                (PLAIN, getattr(K.autodiff, kernel)),
            )
        }
        if (device := torch_device()) is not None:
            dy = _cotangent(functools.partial(getattr(K, kernel), **options), arrays)
            calls[TORCH] = Call(_torch(torch_call, arrays, dy, device), n)
        return calls

    return make


def _first_output(fn: Callable[..., Any], *arrays: jax.Array) -> jax.Array:
    out = fn(*arrays)
    return out[0] if isinstance(out, tuple) else out


def _cotangent(fn: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> jax.Array:
    """Returns noise of the shape of the (first) output."""
    y = jax.eval_shape(functools.partial(_first_output, fn), *arrays)
    return jax.random.normal(jax.random.key(1), y.shape)


def _program(
    fn: Callable[..., Any], arrays: tuple[jax.Array, ...]
) -> Callable[[], Any]:
    """Returns a call of the compiled forward and backward pass, alone with its y."""

    @jax.jit
    def both(dy: jax.Array, *arrays: jax.Array) -> Any:
        y, pull_back = jax.vjp(functools.partial(_first_output, fn), *arrays)
        return y, pull_back(dy)

    return functools.partial(both, _cotangent(fn, arrays), *arrays)


def _torch(
    compute: Callable[..., Any],
    arrays: tuple[jax.Array, ...],
    cotangent: jax.Array,
    device: str,
) -> Callable[[], Any]:
    """Returns the same in PyTorch, images and filters channels first, stored last.

    Args:
      compute: Takes PyTorch's functions and the tensors.
      arrays: Images, then filters or vectors.
      cotangent: Of the output.
      device: PyTorch's name of the device.
    """
    import torch

    def tensor(array: jax.Array, axes: tuple[int, ...]) -> torch.Tensor:
        found = torch.from_numpy(np.array(array)).to(device)
        if found.ndim == 4:
            found = found.permute(*axes)
            found = found.contiguous(memory_format=torch.channels_last)
        return found

    # By their place, not by their shape: a batch may be as large as an image is wide.
    x, *others = arrays
    images, filters = (0, 3, 1, 2), (3, 2, 0, 1)
    tensors = [tensor(x, images), *(tensor(each, filters) for each in others)]
    tensors = [each.requires_grad_() for each in tensors]
    dy = tensor(cotangent, images)

    def both() -> Any:
        y = compute(torch.nn.functional, *tensors)
        gradients = torch.autograd.grad(y, tensors, dy)
        if device == "cuda":
            torch.cuda.synchronize()
        return y, gradients

    return both
