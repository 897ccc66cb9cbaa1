"""Cases of transposed convolution."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import (
    Case,
    Options,
    normal,
)

# Name -> (input, filter, options).
TRANSPOSED_CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Options]] = {
    "stride 2, same": ((2, 4, 5, 3), (3, 3, 3, 4), {"strides": 2}),
    "same, even": ((2, 4, 5, 3), (4, 2, 3, 4), {}),
    "stride 2, valid": ((2, 4, 3, 3), (3, 4, 3, 4), {"strides": 2, "padding": "VALID"}),
    "stride beyond the window, same": ((2, 3, 4, 2), (2, 1, 2, 3), {"strides": 3}),
    "stride beyond the window, valid": (
        (2, 3, 4, 2),
        (2, 1, 2, 3),
        {"strides": 3, "padding": "VALID"},
    ),
    "1x1": ((2, 4, 5, 4), (1, 1, 4, 6), {"padding": 0}),
    "1x1 stride 2": ((2, 4, 5, 4), (1, 1, 4, 6), {"strides": 2}),
    "strides 2 and 3, explicit": (
        (2, 4, 3, 2),
        (2, 4, 2, 3),
        {"strides": (2, 3), "padding": ((1, 2), (0, 3))},
    ),
    "padding beyond the window": ((2, 3, 4, 2), (2, 2, 2, 3), {"padding": 3}),
    "cropped": (
        (2, 4, 5, 2),
        (2, 3, 2, 3),
        {"strides": 2, "padding": ((-1, 0), (1, -2))},
    ),
    "dilated, stride 2, same": (
        (2, 4, 3, 2),
        (3, 2, 2, 3),
        {"dilation": (2, 3), "strides": 2},
    ),
    "16 channels, stride 2": ((1, 3, 4, 3), (3, 4, 3, 16), {"strides": 2}),
    "2 groups, stride 2": ((2, 4, 3, 4), (3, 3, 2, 6), {"groups": 2, "strides": 2}),
    "depthwise twofold, stride 2": (
        (2, 4, 3, 3),
        (4, 3, 1, 6),
        {"groups": 3, "strides": 2},
    ),
    "depthwise threefold": ((2, 4, 3, 2), (3, 3, 1, 6), {"groups": 2}),
    "1-d, stride 3": ((2, 5, 4), (4, 4, 6), {"strides": 3, "padding": 1}),
    "3-d": ((2, 3, 2, 3, 2), (2, 3, 2, 2, 3), {"strides": (1, 2, 1)}),
}

CASES = (
    *(
        Case(
            "conv_transpose",
            label,
            {"x": normal(*x), "w": normal(*w), "b": normal(w[-1])},
            options,
        )
        for label, (x, w, options) in TRANSPOSED_CONVOLUTIONS.items()
    ),
    Case("conv_transpose", "no bias", {"x": normal(2, 3, 2), "w": normal(3, 2, 4)}),
)
