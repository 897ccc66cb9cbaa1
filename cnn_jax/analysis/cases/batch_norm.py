"""Cases of batch normalisation."""

from __future__ import annotations

from collections.abc import Callable

import jax

from cnn_jax import kernels
from cnn_jax.analysis.cases.case import Case, Draw, normal, positive, spaced
from cnn_jax.geometry import MaxPool

# Label -> (activation, whether it has corners).
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "relu": (kernels.relu, True),
    "silu": (kernels.silu, False),
    "sigmoid": (kernels.sigmoid, False),
    "relu6": (kernels.relu6, True),
    "gelu": (kernels.gelu, False),
    "hard_sigmoid": (kernels.hard_sigmoid, True),
    "hard_swish": (kernels.hard_swish, True),
}


def _channel_vectors(count: int, *names: str) -> dict[str, Draw]:
    return {
        name: positive(count) if name in ("var", "scale") else normal(count)
        for name in names
    }


CASES = (
    *(
        Case(
            "batch_norm",
            label,
            {"x": normal(*shape), **_channel_vectors(shape[-1], "scale", "bias")},
            {"epsilon": epsilon},
        )
        for label, shape, epsilon in (
            ("images", (3, 4, 3, 2), 1e-5),
            ("rows", (6, 3), 1e-3),
            ("volumes", (2, 3, 2, 2, 2), 1e-5),
        )
    ),
    *(
        Case(
            "batch_norm_inference",
            label,
            {
                "x": normal(*shape),
                **_channel_vectors(shape[-1], "mean", "var", "scale", "bias"),
            },
            {"epsilon": 1e-5},
        )
        for label, shape in (("images", (2, 4, 3, 2)), ("rows", (5, 3)))
    ),
    *(
        Case(
            kernel,
            f"{label}, {name}",
            {"x": normal(*shape), **_channel_vectors(shape[-1], *vectors)},
            {"epsilon": 1e-3, "activation": activation},
            has_corners,
        )
        for kernel, vectors in (
            ("batch_norm", ("scale", "bias")),
            ("batch_norm_inference", ("mean", "var", "scale", "bias")),
        )
        for label, shape in (("images", (3, 4, 3, 2)), ("volumes", (2, 3, 2, 2, 2)))
        for name, (activation, has_corners) in ACTIVATIONS.items()
        if label == "images" or name == "silu"
    ),
    *(
        Case(
            "batch_norm",
            f"{label}, pooled",
            # Scales of both signs; no two entries of a channel are the same.
            {
                "x": spaced(*shape),
                "scale": normal(shape[-1]),
                "bias": normal(shape[-1]),
            },
            {"epsilon": 1e-3, "activation": activation, "pool": pool},
            has_corners,
        )
        for label, shape, activation, pool, has_corners in (
            ("relu", (2, 5, 4, 3), kernels.relu, MaxPool(3, 2, 1), True),
            ("none", (3, 4, 2), None, MaxPool(2), False),
            ("silu", (2, 4, 3, 2), kernels.silu, MaxPool(2, 1, "SAME"), False),
        )
    ),
)
