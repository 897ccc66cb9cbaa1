"""Cases of the general convolution."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import (
    Case,
    Options,
    normal,
)

NHWC = ("NHWC", "HWIO", "NHWC")

# Name -> (lhs, rhs, options).
GENERAL_CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Options]] = {
    "no dimension numbers": (
        (2, 3, 6, 7),
        (4, 3, 3, 2),
        {"window_strides": (2, 1), "padding": "SAME"},
    ),
    "NHWC, dilated, groups": (
        (2, 7, 6, 4),
        (3, 2, 2, 6),
        {
            "window_strides": (1, 2),
            "padding": ((1, 2), (0, 1)),
            "rhs_dilation": (2, 3),
            "dimension_numbers": NHWC,
            "feature_group_count": 2,
        },
    ),
    "NHWC, same at the lower side": (
        (2, 6, 7, 3),
        (2, 4, 3, 4),
        {
            "window_strides": (1, 2),
            "padding": "SAME_LOWER",
            "dimension_numbers": NHWC,
        },
    ),
    "every layout another": (
        (6, 3, 2, 5),
        (4, 2, 3, 3),
        {
            "window_strides": (2, 1),
            "padding": ((0, 1), (2, -1)),
            "dimension_numbers": ("WCNH", "OWHI", "CHNW"),
        },
    ),
    "dilated input": (
        (2, 4, 3, 3),
        (3, 2, 3, 4),
        {
            "window_strides": (1, 1),
            "padding": ((1, 1), (0, 2)),
            "lhs_dilation": (2, 3),
            "dimension_numbers": NHWC,
        },
    ),
    "dilated input and strides": (
        (2, 4, 4, 3),
        (4, 2, 3, 2),
        {
            "window_strides": (2, 1),
            "padding": ((2, 0), (1, 1)),
            "lhs_dilation": (3, 2),
            "rhs_dilation": (1, 2),
            "feature_group_count": 2,
        },
    ),
    "depthwise twofold, stride 2": (
        (2, 7, 6, 3),
        (3, 3, 1, 6),
        {
            "window_strides": (2, 2),
            "padding": "SAME",
            "dimension_numbers": NHWC,
            "feature_group_count": 3,
        },
    ),
    "depthwise threefold": (
        (2, 2, 5, 6),
        (6, 1, 3, 3),
        {
            "window_strides": (1, 1),
            "padding": "VALID",
            "feature_group_count": 2,
        },
    ),
    "depthwise twofold, dilated input": (
        (2, 4, 3, 2),
        (3, 3, 1, 4),
        {
            "window_strides": (1, 1),
            "padding": ((1, 2), (1, 1)),
            "lhs_dilation": (2, 2),
            "dimension_numbers": NHWC,
            "feature_group_count": 2,
        },
    ),
    "1-d": ((2, 3, 9), (4, 3, 3), {"window_strides": (2,), "padding": "SAME"}),
    "3-d": (
        (2, 2, 4, 3, 5),
        (2, 2, 2, 1, 3),
        {
            "window_strides": (1, 1, 2),
            "padding": "VALID",
            "dimension_numbers": ("NCDHW", "IODHW", "NDHWC"),
        },
    ),
}

CASES = tuple(
    Case("conv_general_dilated", label, {"lhs": normal(*x), "rhs": normal(*w)}, options)
    for label, (x, w, options) in GENERAL_CONVOLUTIONS.items()
)
