"""Cases of the dense layer's product."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import Case, normal

CASES = (
    Case("dense", "2-d", {"x": normal(4, 3), "w": normal(3, 5), "b": normal(5)}),
    Case("dense", "4-d", {"x": normal(2, 3, 2, 4), "w": normal(4, 3)}),
)
