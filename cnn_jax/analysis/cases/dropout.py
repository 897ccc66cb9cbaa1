"""Cases of dropout: of entries, examples, channels and squares."""

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
    Case(
        "spatial_dropout",
        "4-d",
        {"x": normal(3, 3, 2, 4), "key": random_key()},
        {"rate": 0.4},
    ),
    Case(
        "drop_block",
        "squares of 2",
        {"x": normal(2, 6, 5, 2), "key": random_key()},
        {"rate": 0.4, "block_size": 2},
    ),
    Case(
        "drop_block",
        "larger than the map",
        {"x": normal(3, 4, 2, 2), "key": random_key()},
        {"rate": 0.4, "block_size": 3},
    ),
    Case(
        "drop_block",
        "1-d",
        {"x": normal(2, 7, 2), "key": random_key()},
        {"rate": 0.3, "block_size": 3},
    ),
    Case(
        "drop_block",
        "3-d",
        {"x": normal(2, 4, 3, 4, 1), "key": random_key()},
        {"rate": 0.3, "block_size": 2},
    ),
)
