"""Cases of convolution and its named gradients."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import (
    Case,
    Options,
    normal,
)
from cnn_jax.geometry import Window

# Name -> (input, filter, options). Channels differ so that no mix-up can cancel.
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Options]] = {
    "same": ((2, 6, 7, 3), (3, 3, 3, 4), {}),
    "valid": ((2, 6, 7, 3), (3, 2, 3, 4), {"padding": "VALID"}),
    "1x1": ((2, 5, 6, 4), (1, 1, 4, 6), {}),
    "1x1, few positions": ((2, 2, 3, 5), (1, 1, 5, 7), {}),
    "1x1 stride 2": ((2, 5, 6, 4), (1, 1, 4, 6), {"strides": 2}),
    "stride 2, same, even": ((2, 8, 6, 3), (3, 3, 3, 4), {"strides": 2}),
    "stride 2, same, odd": ((2, 7, 9, 3), (5, 3, 3, 4), {"strides": 2}),
    "strides 2 and 3, explicit": (
        (2, 9, 10, 2),
        (2, 4, 2, 3),
        {"strides": (2, 3), "padding": ((1, 2), (0, 3))},
    ),
    "stride beyond the window": ((2, 9, 8, 2), (2, 1, 2, 3), {"strides": 3}),
    "padding beyond the window": ((2, 4, 3, 2), (2, 2, 2, 3), {"padding": 3}),
    "cropped": ((2, 7, 8, 2), (3, 3, 2, 3), {"padding": ((-1, 0), (1, -2))}),
    "dilated": (
        (2, 9, 7, 2),
        (3, 2, 2, 3),
        {"dilation": (2, 3), "padding": "VALID"},
    ),
    "dilated, stride 2, same": (
        (2, 9, 8, 2),
        (3, 3, 2, 3),
        {"dilation": 2, "strides": 2},
    ),
    "2 groups, stride 2": (
        (2, 7, 6, 4),
        (3, 3, 2, 6),
        {"groups": 2, "strides": 2, "padding": 1},
    ),
    "depthwise": ((2, 6, 5, 4), (3, 3, 1, 4), {"groups": 4}),
    "depthwise twofold": ((2, 6, 5, 3), (3, 3, 1, 6), {"groups": 3}),
    "depthwise twofold, stride 2": (
        (2, 7, 6, 3),
        (4, 3, 1, 6),
        {"groups": 3, "strides": 2},
    ),
    "depthwise threefold": ((2, 6, 5, 2), (3, 3, 1, 6), {"groups": 2}),
    "depthwise threefold, stride 2": (
        (2, 7, 6, 2),
        (3, 3, 1, 6),
        {"groups": 2, "strides": 2, "padding": 1},
    ),
    "1-d, stride 2": ((2, 9, 4), (3, 4, 6), {"strides": 2}),
    "1-d, dilated, groups": (
        (2, 11, 4),
        (4, 2, 6),
        {"dilation": 2, "groups": 2, "padding": "VALID"},
    ),
    "3-d": ((2, 4, 5, 4, 2), (2, 3, 2, 2, 3), {"strides": (1, 2, 1)}),
    "3-d, groups": (
        (1, 4, 5, 3, 4),
        (3, 2, 1, 2, 2),
        {"groups": 2, "padding": (1, 0, (0, 2)), "dilation": (1, 2, 1)},
    ),
}


def _convolution_cases() -> list[Case]:
    cases = []
    for label, (x, w, options) in CONVOLUTIONS.items():
        geometry = {name: options[name] for name in options if name != "groups"}
        geometry.setdefault("padding", "SAME")
        window = Window.resolve(x[1:-1], w[:-2], **geometry)
        y = (x[0], *window.output_sizes, w[-1])
        arguments = {"x": normal(*x), "w": normal(*w), "b": normal(w[-1])}
        cases += [
            Case("conv", label, arguments, options),
            Case(
                "conv_input_grad",
                label,
                {"dy": normal(*y), "w": normal(*w)},
                {"input_shape": x, **options},
            ),
            Case(
                "conv_filter_grad",
                label,
                {"x": normal(*x), "dy": normal(*y)},
                {"filter_shape": w, **options},
            ),
        ]
    no_bias = {"x": normal(2, 5, 5, 2), "w": normal(3, 3, 2, 3)}
    return [
        *cases,
        Case("conv", "no bias", no_bias),
        Case("conv_bias_grad", "2-d", {"dy": normal(3, 4, 5, 2)}),
        Case("conv_bias_grad", "1-d", {"dy": normal(3, 4, 2)}),
    ]


CASES = tuple(_convolution_cases())
