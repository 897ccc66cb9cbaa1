"""Cases of adaptive average pooling."""

from cnn_jax.analysis.cases.case import Case, normal

CASES = (
    Case("adaptive_avg_pool", "even", {"x": normal(2, 6, 4, 3)}, {"output_size": 2}),
    Case(
        "adaptive_avg_pool",
        "uneven",
        {"x": normal(2, 7, 5, 3)},
        {"output_size": 3},
    ),
    Case(
        "adaptive_avg_pool",
        "repeating",
        {"x": normal(2, 2, 3, 3)},
        {"output_size": (5, 3)},
    ),
    Case("adaptive_avg_pool", "1-d", {"x": normal(2, 5, 3)}, {"output_size": 2}),
    Case("adaptive_avg_pool", "wide", {"x": normal(1, 20, 2)}, {"output_size": 3}),
    Case(
        "adaptive_avg_pool",
        "3-d",
        {"x": normal(2, 3, 4, 2, 2)},
        {"output_size": (2, 1, 3)},
    ),
)
