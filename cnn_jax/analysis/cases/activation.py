"""Cases of the activations."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import Case, among, normal, spaced, tied

# On every straight piece of relu6, hard_sigmoid and hard_swish, and on their corners.
_PIECES = (-4.5, -2.5, -1.25, 0.75, 2.5, 4.25, 7.5)
_CORNERS = (-3.0, 0.0, 1.0, 3.0, 6.0)

CASES = (
    Case("relu", "4-d", {"x": spaced(2, 3, 3, 2)}),
    Case("relu", "corners", {"x": tied(3, 4)}, has_corners=True),
    *(
        case
        for kernel in ("relu6", "hard_sigmoid", "hard_swish")
        for case in (
            Case(kernel, "pieces", {"x": among(_PIECES, 2, 3, 3, 2)}),
            Case(kernel, "4-d", {"x": normal(2, 3, 3, 2)}),
            Case(kernel, "corners", {"x": among(_CORNERS, 5, 4)}, has_corners=True),
        )
    ),
    Case("silu", "4-d", {"x": normal(2, 3, 3, 2)}),
    Case("sigmoid", "4-d", {"x": normal(2, 3, 3, 2)}),
    Case("gelu", "tanh", {"x": normal(2, 3, 3, 2)}),
    Case("gelu", "erf", {"x": normal(2, 3, 3, 2)}, {"approximate": False}),
)
