"""Cases of dropout and stochastic depth."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import Case, normal, random_key

CASES = (
    Case(
        "dropout",
        "4-d",
        {"x": normal(3, 4, 3, 2), "key": random_key()},
        {"rate": 0.4},
    ),
    Case("dropout", "rate 0", {"x": normal(3, 4), "key": random_key()}, {"rate": 0.0}),
    Case(
        "stochastic_depth",
        "4-d",
        {"x": normal(8, 2, 3, 2), "key": random_key()},
        {"rate": 0.4},
    ),
)
