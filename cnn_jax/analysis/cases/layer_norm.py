"""Cases of layer normalisation."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import Case, normal
from cnn_jax.analysis.cases.group_norm import X_ALONE, x_and_vectors

CASES = (
    *(
        Case("layer_norm", label, x_and_vectors(*shape), {"epsilon": epsilon})
        for label, shape, epsilon in (
            ("images", (2, 3, 2, 5), 1e-6),
            ("rows", (4, 3), 1e-2),
            ("vector", (6,), 1e-5),
        )
    ),
    Case("layer_norm", "x alone", {"x": normal(3, 4)}, X_ALONE),
)
