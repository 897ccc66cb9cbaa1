"""The charts of a training run, over its epochs and its steps."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Sequence
from typing import Any

from cnn_jax.report import html, plots
from cnn_jax.report.finished_run import SPLITS, Entry, FinishedRun
from cnn_jax.report.statistics import student_interval
from cnn_jax.report.words import count

MAX_POINTS = 200
"""Points of a curve over steps; of a longer run each is the mean of several lines."""


def learning_curves(run: FinishedRun) -> list[Any]:
    """Returns the blocks with the charts, or with the sentence why there are none."""
    if importlib.util.find_spec("matplotlib") is None:
        return [
            html.Paragraph(
                "The charts need matplotlib, which was not installed when this page "
                "was written: pip install 'cnn_jax[report]', then repeat the run's "
                "command with --resume."
            )
        ]
    drawn = [
        *(_epoch_chart(run, *form) for form in EPOCH_CHARTS),
        *(_step_chart(run, *form) for form in STEP_CHARTS),
    ]
    charts = [chart for chart in drawn if chart is not None]
    if not charts:
        return [html.Paragraph("No epoch and no step has a finite number to draw.")]
    return [html.Charts(charts)]


EPOCH_CHARTS = (
    ("loss", "Loss", "mean loss", 1, (0, math.inf)),
    ("accuracy", "Accuracy", "accuracy, %", 100, (0, 1)),
)
"""Charts over epochs, for every split: the metric, the title, the label of the y
axis, what values are multiplied by, and their bounds."""

STEP_CHARTS = (
    ("loss", "Training loss by step", "loss", 0),
    ("learning_rate", "Learning rate by step", "learning rate", 3),
)
"""Charts over steps: the field, the title, the name of the line and of the y
axis, and the style."""


def _epoch_chart(
    run: FinishedRun,
    metric: str,
    title: str,
    label: str,
    scale: float,
    bounds: tuple[float, float],
) -> html.Chart | None:
    points = {
        name: _points(run.history, "epoch", f"{name}_{metric}") for name in SPLITS
    }
    curves = [
        _curve(SPLITS[name].lower(), points[name], style)
        for style, name in enumerate(SPLITS)
        if points[name]
    ]
    caption = (
        "Training: the mean over an epoch, while it was trained; else after it. The "
        f"result is that of epoch {run.best_epoch}."
    )
    if any(0 < len(drawn) < len(run.history) for drawn in points.values()):
        caption += " Epochs without a finite number have no point."
    return _chart(
        curves,
        title,
        caption,
        x_label="epoch",
        y_label=label,
        scale=scale,
        bounds=bounds,
    )


def _step_chart(
    run: FinishedRun, field: str, title: str, label: str, style: int
) -> html.Chart | None:
    points = _points(run.steps, "step", field)
    size = math.ceil(len(points) / MAX_POINTS)
    caption = f"From the {count(len(points), 'line')} of metrics.jsonl about steps"
    caption += f"; each point is the mean of up to {size}." if size > 1 else "."
    groups = [
        points[start : start + size] for start in range(0, len(points), size or 1)
    ]
    means = [
        (statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group))
        for group in groups
    ]
    curves = [_curve(label, means, style)] if means else []
    return _chart(curves, title, caption, x_label="step", y_label=label)


def _points(
    entries: Sequence[Entry], place: str, field: str
) -> list[tuple[float, float]]:
    """Returns where a field has a finite number, and that number."""
    return [
        (each[place], each[field])
        for each in entries
        if each.get(place) is not None and each.get(field) is not None
    ]


def _curve(
    label: str, points: Sequence[tuple[float, float]], style: int
) -> plots.Curve:
    places, values = zip(*points, strict=True)
    return plots.Curve(
        label, places, [student_interval([value]) for value in values], style
    )


def _chart(
    curves: Sequence[plots.Curve], title: str, caption: str, **options: Any
) -> html.Chart | None:
    if not curves:
        return None
    ends = "; ".join(
        f"{curve.label} {curve.values[-1].mean * options.get('scale', 1):.3g}"
        for curve in curves
    )
    svg = plots.line_chart(
        curves,
        title=title,
        description=f"{title} by {options['x_label']}. Last values: {ends}.",
        **options,
    )
    return html.Chart(svg, title, caption)
