"""Cases of the activations."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import Case, normal, spaced, tied

CASES = (
    Case("relu", "4-d", {"x": spaced(2, 3, 3, 2)}),
    Case("relu", "corners", {"x": tied(3, 4)}, has_corners=True),
    Case("silu", "4-d", {"x": normal(2, 3, 3, 2)}),
    Case("sigmoid", "4-d", {"x": normal(2, 3, 3, 2)}),
)
