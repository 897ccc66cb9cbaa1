"""Cases of group normalisation."""

from __future__ import annotations

from typing import Any

from cnn_jax.analysis.cases.case import Case, Draw, normal, positive


def x_and_vectors(*shape: int) -> dict[str, Draw]:
    """Returns the draws of x and of its channels' scale and bias."""
    channels = shape[-1]
    return {"x": normal(*shape), "scale": positive(channels), "bias": normal(channels)}


X_ALONE: dict[str, Any] = {"scale": None, "bias": None, "epsilon": 1e-5}

CASES = (
    *(
        Case(
            "group_norm",
            label,
            x_and_vectors(*shape),
            {"num_groups": num_groups, "epsilon": epsilon},
        )
        for label, shape, num_groups, epsilon in (
            ("images", (2, 3, 2, 6), 3, 1e-6),
            ("one group", (3, 4, 4), 1, 1e-5),
            ("a group a channel", (2, 3, 4, 3), 3, 1e-5),
            ("rows", (4, 6), 2, 1e-2),
            ("volumes", (2, 2, 3, 2, 4), 2, 1e-5),
        )
    ),
    Case(
        "group_norm",
        "x alone",
        {"x": normal(2, 3, 3, 4)},
        {"num_groups": 2, **X_ALONE},
    ),
)
