"""Cases of local response normalisation."""

from cnn_jax.analysis.cases.case import Case, normal

# Far stronger than in the paper, so that the neighbours matter.
_STRONG = {"alpha": 0.3, "k": 1.5}

CASES = (
    Case("local_response_norm", "5 channels", {"x": normal(2, 3, 2, 7)}, _STRONG),
    Case(
        "local_response_norm",
        "even window",
        {"x": normal(2, 3, 6)},
        {**_STRONG, "size": 4, "beta": 0.5},
    ),
    Case(
        "local_response_norm",
        "wider than the channels",
        {"x": normal(2, 2, 2, 3)},
        {**_STRONG, "size": 9},
    ),
)
