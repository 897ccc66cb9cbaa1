"""The forms in which each platform computes an operation.

`xla` holds each operation in its plain lax form; `cpu` and `tpu` hold forms that are
faster there; `index_map_max_pool` is the form for CPUs and GPUs. Where two forms save
the same residuals, `jax.lax.platform_dependent` picks one when the program is lowered.
Where their residuals differ, `current_target()` decides at trace time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels.platforms import cpu, tpu, xla

Platform = Literal["cpu", "gpu", "tpu"]
TARGETS = get_args(Platform)

# A user context is part of JAX's trace cache key: a function traced for one target is
# traced again for another.
_target = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def target_platform(platform: Platform) -> Iterator[None]:
    """Traces kernels for `platform` instead of for JAX's default backend.

    Needed only where a program is traced on one platform and compiled for another, as
    when a CPU host compiles a TPU's train step.

    Args:
      platform: "cpu", "gpu" or "tpu".

    Raises:
      ValueError: If `platform` is none of these.
    """
    if platform not in TARGETS:
        raise ValueError(
            f"target_platform: got {platform!r}, expected one of {', '.join(TARGETS)}."
        )
    with _target(platform):
        yield


def current_target() -> Platform:
    """Returns the platform that kernels are being traced for: cpu, gpu or tpu."""
    platform: Any = _target.value or jax.default_backend()
    # Plug-in backends carry names of their own ("cuda", "rocm").
    return platform if platform in TARGETS else "gpu"


# Jitted, so that a call outside of any jit compiles once per shape and geometry, and
# inlined, so that inside a jit nothing of this is left.
_inlined = functools.partial(jax.jit, static_argnums=(2, 3, 4), inline=True)


@_inlined
def conv(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x` with the filters `w`, in the form that suits the platform."""
    return _per_platform(
        cpu.conv, xla.conv, x, w, window, groups, precision, on_tpu=tpu.conv
    )


@_inlined
def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dx of `conv`, in the form that suits the platform."""
    return _per_platform(
        *(cpu.conv_input_grad, xla.conv_input_grad),
        *(dy, w, window, groups, precision),
        on_tpu=tpu.conv_input_grad,
    )


@_inlined
def conv_transpose(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x`, spread by the window's strides, with the filters `w`.

    This leads from the window's outputs to its inputs: it is `conv_input_grad` of the
    flipped and transposed filters.
    """
    return _per_platform(
        cpu.conv_transpose, xla.conv_transpose, x, w, window, groups, precision
    )


@_inlined
def conv_transpose_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dx of `conv_transpose`, in the form that suits the platform."""
    return _per_platform(
        cpu.conv_transpose_input_grad,
        xla.conv_transpose_input_grad,
        *(dy, w, window, groups, precision),
    )


@_inlined
def conv_transpose_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dw of `conv_transpose`, in the form that suits the platform."""
    return _per_platform(
        cpu.conv_transpose_filter_grad,
        xla.conv_transpose_filter_grad,
        *(x, dy, window, groups, precision),
    )


@_inlined
def conv_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dw of `conv`, in the form that suits the platform."""
    return _per_platform(
        cpu.conv_filter_grad, xla.conv_filter_grad, x, dy, window, groups, precision
    )


@functools.partial(jax.jit, inline=True)
def cpu_optimization_barrier(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays behind `lax.optimization_barrier` on a CPU, elsewhere as is.

    Values computed from them are then recomputed at each use. If two loops or the two
    passes shared them, XLA would store them: in float32, whatever their source's dtype,
    and on a CPU after a loop too complex to vectorise.

    Args:
      *arrays: The arrays to read again.
    """
    return _optimization_barrier_on("cpu", arrays)


@functools.partial(jax.jit, inline=True)
def tpu_optimization_barrier(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays behind `lax.optimization_barrier` on a TPU, elsewhere as is.

    See `cpu_optimization_barrier`.

    Args:
      *arrays: The arrays to read again.
    """
    return _optimization_barrier_on("tpu", arrays)


def _optimization_barrier_on(platform, arrays):
    return lax.platform_dependent(
        *arrays,
        **{platform: lambda *arrays: tuple(lax.optimization_barrier(arrays))},
        default=lambda *arrays: arrays,
    )


def _per_platform(on_cpu, elsewhere, a, b, window, groups, precision, *, on_tpu=None):
    geometry = {"window": window, "groups": groups, "precision": precision}
    forms = {"cpu": on_cpu} | ({} if on_tpu is None else {"tpu": on_tpu})
    return lax.platform_dependent(
        a,
        b,
        **{name: functools.partial(form, **geometry) for name, form in forms.items()},
        default=functools.partial(elsewhere, **geometry),
    )
