"""Metrics that the runs of a study are compared by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cnn_jax.report.table import Column


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that every finished run has.

    Attributes:
      column: How it is named and shown in tables.
      name: Its name inside a sentence.
      difference_unit: The unit of a difference of two of its shown values.
      bounds: Its smallest and greatest possible value.
    """

    column: Column
    name: str
    difference_unit: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def axis(self) -> str:
        """Its name with its unit, for the axis of a chart."""
        unit = self.column.unit
        return f"{self.name}, {unit}" if unit else self.name


_POINTS = "points"
_SHARE = (0.0, 1.0)
_POSITIVE = (0.0, math.inf)


def _accuracy(key: str, header: str, name: str, note: str, **form: Any) -> Metric:
    column = Column(key, header, "%", ".1f", 100, note=note, **form)
    return Metric(column, name, _POINTS, _SHARE)


def _loss(key: str, header: str, name: str, note: str, **form: Any) -> Metric:
    return Metric(
        Column(key, header, "", ".3f", note=note, **form), name, "", _POSITIVE
    )


def _cost(
    key: str, header: str, name: str, unit: str, spec: str, scale: float, note: str
) -> Metric:
    column = Column(key, header, unit, spec, scale, "lowest", note)
    return Metric(column, name, unit, _POSITIVE)


METRICS: Mapping[str, Metric] = {
    metric.column.key: metric
    for metric in (
        _accuracy(
            "test_accuracy",
            "Test accuracy",
            "test accuracy",
            "On the test split, which decided nothing.",
            best="highest",
        ),
        _loss(
            "test_loss",
            "Test loss",
            "test loss",
            "Cross-entropy on the test split.",
            best="lowest",
        ),
        _accuracy(
            "train_accuracy",
            "Training accuracy",
            "training accuracy",
            "On the training examples, evaluated as the test split is: without "
            "augmentation, dropout or batch statistics.",
        ),
        _loss(
            "train_loss",
            "Training loss",
            "training loss",
            "Cross-entropy on the training examples, evaluated as the test split is.",
        ),
        Metric(
            Column(
                *("gap", "Gap", "points", ".1f", 100, "lowest"),
                note="The generalisation gap: training accuracy minus test accuracy.",
            ),
            "generalisation gap",
            _POINTS,
        ),
        _accuracy(
            "test_calibration_error",
            "Calibration error",
            "calibration error",
            "Expected calibration error on the test split, over 15 bins.",
            best="lowest",
        ),
        _cost(
            *("parameters", "Params", "parameters", "", ",d", 1),
            "Trained numbers, those of biases and normalisations included.",
        ),
        _cost(
            *("macs", "MACs", "multiply-adds per image", "M", ",.1f", 1e-6),
            "Multiply-adds of one forward pass over one image.",
        ),
        _cost(
            *("activation_bytes", "Activations", "activations per image"),
            *("KiB", ",.0f", 2**-10),
            "The outputs of all layers for one image, in float32.",
        ),
        _cost(
            *("step_seconds", "Step", "time of a training step", "ms", ",.1f", 1e3),
            "One training step: forward, backward, update. The median over a run, "
            "then over the seeds.",
        ),
        _cost(
            *("train_seconds", "Training", "training time", "s", ",.1f", 1),
            "Wall time of a run's training steps, without compilation and evaluation.",
        ),
        _cost(
            *("epochs_run", "Epochs", "epochs trained", "", ",.1f", 1),
            "Passes over the training examples until the run ended.",
        ),
    )
}
"""All metrics by the key that they have in results."""

OF_THE_NETWORK = ("parameters", "macs", "activation_bytes")
"""Metrics that no seed changes: numbers, not intervals."""
