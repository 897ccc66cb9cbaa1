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

HAS_TORCH = importlib.util.find_spec("torch") is not None


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
        if HAS_TORCH:
            calls[TORCH] = Call(_torch(torch_call, arrays), n)
        return calls

    return make


def _program(
    fn: Callable[..., Any], arrays: tuple[jax.Array, ...]
) -> Callable[[], Any]:
    """Returns a call of the compiled forward and backward pass, alone with its y."""

    def first_output(*arrays: jax.Array) -> jax.Array:
        out = fn(*arrays)
        return out[0] if isinstance(out, tuple) else out

    dy = jax.random.normal(
        jax.random.key(1), jax.eval_shape(first_output, *arrays).shape
    )

    @jax.jit
    def both(dy: jax.Array, *arrays: jax.Array) -> Any:
        y, pull_back = jax.vjp(first_output, *arrays)
        return y, pull_back(dy)

    return functools.partial(both, dy, *arrays)


def _torch(
    compute: Callable[..., Any], arrays: tuple[jax.Array, ...]
) -> Callable[[], Any]:
    """Returns the same in PyTorch, images and filters channels first, stored last."""
    import torch

    def tensor(array: jax.Array) -> torch.Tensor:
        found = torch.from_numpy(np.array(array))
        if found.ndim == 4:
            is_filter = array.shape[0] == array.shape[1]
            found = found.permute(*((3, 2, 0, 1) if is_filter else (0, 3, 1, 2)))
            found = found.contiguous(memory_format=torch.channels_last)
        return found.requires_grad_()

    tensors = [tensor(array) for array in arrays]
    dy = torch.randn_like(compute(torch.nn.functional, *tensors))

    def both() -> Any:
        y = compute(torch.nn.functional, *tensors)
        torch.autograd.grad(y, tensors, dy)

    return both
