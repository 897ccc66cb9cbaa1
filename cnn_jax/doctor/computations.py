"""Small computations whose right results are known, and what JAX says of itself.

They run in a process of their own (`inside`). Each result is compared with NumPy's in
float64, so that a version that was mended is not blamed for its number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

FUSED_ROWS = 40_000
"""Rows of the fused product: it is wrong beyond 32,768 of them, for 3 columns."""

OPTIONS = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs", "jax_log_compiles")
"""Settings with which every step is slow."""


def describe_devices() -> dict[str, Any]:
    """Initialises JAX and returns what devices there are."""
    import jax

    devices = jax.local_devices()
    return {
        "platform": jax.default_backend(),
        "processes": jax.process_count(),
        "count": jax.device_count(),
        "local": [
            {
                "id": device.id,
                "platform": device.platform,
                "kind": device.device_kind,
                "memory": _memory(device),
            }
            for device in devices
        ],
        "runtime": str(devices[0].client.platform_version),
    }


def describe_settings() -> dict[str, Any]:
    """Returns the settings of JAX that results or speed depend on."""
    import jax

    config: Any = jax.config
    found = {name: bool(getattr(config, name, False)) for name in OPTIONS}
    precision = config.jax_default_matmul_precision
    return {
        **found,
        "x64": bool(config.jax_enable_x64),
        "prng": str(config.jax_default_prng_impl),
        "matmul_precision": None if precision is None else str(precision),
        "cache": config.jax_compilation_cache_dir,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def check_arithmetic() -> list[int]:
    """Returns the numbers of the local devices that compute a product wrongly."""
    import jax
    import jax.numpy as jnp

    # Small integers: exact in every precision, bfloat16's among them.
    left = np.arange(64, dtype=np.float32).reshape(8, 8) % 7
    expected = left @ left.T + left.sum()
    compute = jax.jit(lambda x: x @ x.T + jnp.sum(x))
    wrong = []
    for device in jax.local_devices():
        found = np.asarray(compute(jax.device_put(left, device)))
        if not np.array_equal(found, expected):
            wrong.append(device.id)
    return wrong


def fused_product() -> float:
    """Returns the error of a product, squared and summed, in one fused program."""
    import jax
    import jax.numpy as jnp

    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((3, 3)).astype(np.float32)
    rows = generator.standard_normal((FUSED_ROWS, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    exact = rows.astype(np.float64) @ matrix.T.astype(np.float64)
    return _error(found, (exact**2).sum(axis=-1))


def shifted_convolution() -> float:
    """Returns the error of a convolution that crops in front and pads behind."""
    import jax
    import jax.numpy as jnp

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            w,
            (1, 1),
            ((0, 0), (-5, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    expected = np.zeros((1, 6, 2, 8))
    expected[:, :, 0] = 8  # the column that is left; behind it is padding
    errors = [
        _error(
            jax.jit(convolve)(
                jnp.ones((1, 6, 6, 8), dtype), jnp.ones((1, 1, 8, 8), dtype)
            ),
            expected,
        )
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
    ]
    return max(errors)


def cropped_window() -> float:
    """Returns the error of a windowed sum whose input is cropped and padded again."""
    import jax
    import jax.numpy as jnp

    zero = np.float32(0)

    def pool(x: jax.Array) -> jax.Array:
        # Only a pad that dilates is merged with the padding of the window.
        cropped = jax.lax.pad(x, zero, [(0, 0, 1), (-1, 0, 0)])
        return jax.lax.reduce_window(
            cropped, zero, jax.lax.add, (1, 2), (1, 1), ((0, 0), (1, 0))
        )

    return _error(jax.jit(pool)(jnp.asarray([[3.0, 5.0]])), np.asarray([[5.0]]))


def window_of_one() -> float:
    """Returns the error of a windowed sum by a window of one element that crops."""
    import jax
    import jax.numpy as jnp

    zero = np.float32(0)
    found = jax.lax.reduce_window(
        jnp.ones((1, 4)), zero, jax.lax.add, (1, 1), (1, 1), ((0, 0), (-1, 0))
    )
    return _error(found, np.ones((1, 3)))


PROBES: dict[str, Callable[[], float]] = {
    "fused_product": fused_product,
    "shifted_convolution": shifted_convolution,
    "cropped_window": cropped_window,
    "window_of_one": window_of_one,
}
"""The computations that a version of JAX is known to do wrong."""

ABORTING = ("window_of_one",)
"""Those of them that may end the process."""

TOLERANCE = 1e-2
"""The largest error of a probe that rounding explains, bfloat16's among it. The faults
are as large as the values themselves."""


def _error(found: Any, expected: np.ndarray) -> float:
    values = np.asarray(found).astype(np.float64)
    size = float(np.abs(expected).max())
    error = float(np.abs(values - expected).max()) / size
    return error if np.isfinite(error) else 1e300  # JSON has no infinity


def _memory(device: Any) -> int | None:
    try:
        stats = device.memory_stats()
    except Exception:  # a backend need not have it
        return None
    return (stats or {}).get("bytes_limit")
