"""Cases of pooling and its named gradients."""

from __future__ import annotations

from collections.abc import Sequence

from cnn_jax.analysis.cases.case import (
    Case,
    Options,
    normal,
    spaced,
    tied,
)
from cnn_jax.geometry import Window

# Name -> (input, options), for both poolings.
POOLINGS: dict[str, tuple[tuple[int, ...], Options]] = {
    "2x2": ((2, 6, 4, 3), {"window": 2}),
    "3x3 stride 2, same": (
        (2, 7, 6, 3),
        {"window": 3, "strides": 2, "padding": "SAME"},
    ),
    "overlapping": ((2, 6, 5, 2), {"window": (3, 2), "strides": 1}),
    "padding 1": ((2, 6, 7, 2), {"window": 3, "strides": 2, "padding": 1}),
    "explicit": (
        (2, 5, 6, 2),
        {"window": (2, 3), "strides": (3, 2), "padding": ((1, 0), (0, 2))},
    ),
    "cropped": ((2, 7, 6, 2), {"window": 2, "padding": ((-1, 0), (0, -2))}),
    "windows in the padding": (
        (2, 3, 4, 2),
        {"window": 2, "strides": 1, "padding": 3},
    ),
    "1-d": ((2, 9, 3), {"window": 3, "strides": 2}),
    "3-d": ((2, 4, 5, 3, 2), {"window": (2, 3, 2), "strides": (2, 1, 1)}),
}


def _pooling_cases() -> list[Case]:
    cases = []
    for label, (x, options) in POOLINGS.items():
        y = _pooled_shape(x, options)
        cases += [
            Case("max_pool", label, {"x": spaced(*x)}, options),
            Case("max_pool_grad", label, {"x": spaced(*x), "dy": normal(*y)}, options),
            Case("avg_pool", label, {"x": normal(*x)}, options),
            Case(
                "avg_pool_grad",
                label,
                {"dy": normal(*y)},
                {"input_shape": x, **options},
            ),
        ]
    x, padded = (2, 5, 6, 2), {"window": 3, "strides": 2, "padding": "SAME"}
    inside = {**padded, "count_include_pad": False}
    dilated = {"window": (3, 2), "strides": 2, "padding": 2, "dilation": (2, 3)}
    dy, dilated_dy = _pooled_shape(x, padded), _pooled_shape(x, dilated)
    return [
        *cases,
        Case("avg_pool", "padding not counted", {"x": normal(*x)}, inside),
        Case(
            "avg_pool_grad",
            "padding not counted",
            {"dy": normal(*dy)},
            {"input_shape": x, **inside},
        ),
        Case("max_pool", "dilated", {"x": spaced(*x)}, dilated),
        Case(
            "max_pool_grad",
            "dilated",
            {"x": spaced(*x), "dy": normal(*dilated_dy)},
            dilated,
        ),
        Case("max_pool", "ties", {"x": tied(*x)}, padded, has_corners=True),
        Case(
            "max_pool_grad",
            "ties",
            {"x": tied(*x), "dy": normal(*dy)},
            padded,
            has_corners=True,
        ),
        Case("global_avg_pool", "2-d", {"x": normal(2, 3, 4, 5)}),
        Case("global_avg_pool", "1-d", {"x": normal(2, 3, 5)}),
        Case("global_avg_pool", "3-d", {"x": normal(2, 3, 2, 2, 5)}),
    ]


def _pooled_shape(shape: Sequence[int], options: Options) -> tuple[int, ...]:
    geometry = dict(options)
    size = geometry.pop("window")
    window = Window.resolve(shape[1:-1], size, **{"strides": size, **geometry})
    return (shape[0], *window.output_sizes, shape[-1])


CASES = tuple(_pooling_cases())
