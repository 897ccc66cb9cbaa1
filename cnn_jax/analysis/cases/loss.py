"""Cases of the softmax cross-entropy."""

from __future__ import annotations

from cnn_jax.analysis.cases.case import Case, classes, normal, positive

_LOGITS, _LABELS, _TARGETS = normal(4, 5), classes(5, 4), positive(4, 5)
_SMOOTHED = {"label_smoothing": 0.1}

CASES = (
    Case("softmax_cross_entropy", "classes", {"logits": _LOGITS, "labels": _LABELS}),
    Case(
        "softmax_cross_entropy",
        "classes, smoothed",
        {"logits": normal(2, 3, 5), "labels": classes(5, 2, 3)},
        _SMOOTHED,
    ),
    # Not normalised on purpose: the gradient then depends on their sum.
    Case("softmax_cross_entropy", "targets", {"logits": _LOGITS, "labels": _TARGETS}),
    Case(
        "softmax_cross_entropy",
        "targets, smoothed",
        {"logits": _LOGITS, "labels": _TARGETS},
        _SMOOTHED,
    ),
)
