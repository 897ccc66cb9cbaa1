"""The loss along the gradient: how far a step may go before the loss rises again."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import load_pretrained
from cnn_jax.data import normalize
from cnn_jax.report import html, plots
from cnn_jax.report.statistics import student_interval
from cnn_jax.studies import Context, Measurement

NUM_EXAMPLES = 128

STEPS = tuple(10 ** (exponent / 4) for exponent in range(-12, 5))
"""Learning rates of the step along the gradient: 0.001 to 10."""

OF_RATE = "rate 0.01"
"""The runs that are measured: those of the lowest rate, which all variants survive."""


def measure(context: Context) -> dict[str, Any]:
    """Returns the loss of one batch after a step of each length along its gradient.

    From the weights that each run of the lowest learning rate ended with, with batch
    norm in training mode.

    Returns:
      "steps" and "losses": variant -> for each seed a loss for each step. The first
      step is 0, that is no step at all.
    """
    train = context.splits["train"]
    x = normalize(train.images[:NUM_EXAMPLES], *train.channel_statistics)
    labels = jnp.asarray(train.labels[:NUM_EXAMPLES])
    steps = jnp.asarray((0.0, *STEPS))
    variants = [name for name in context.models if name.endswith(OF_RATE)]
    losses: dict[str, list[list[float | None]]] = {}
    for name in variants or list(context.models):
        model = context.models[name]
        along = jax.jit(functools.partial(_along, model))
        for (variant, _), directory in context.runs.items():
            if variant != name:
                continue
            variables, _ = load_pretrained(model, directory)
            found = along(variables, x, labels, steps)
            row = [float(loss) if jnp.isfinite(loss) else None for loss in found]
            losses.setdefault(name, []).append(row)
    return {"steps": [float(step) for step in steps], "losses": losses}


def _along(
    model: Any,
    variables: Mapping[str, Any],
    x: jax.Array,
    labels: jax.Array,
    steps: jax.Array,
) -> jax.Array:
    def loss(params: Any) -> jax.Array:
        logits, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    params = variables["params"]
    gradient = jax.grad(loss)(params)

    def after(step: jax.Array) -> jax.Array:
        return loss(jax.tree.map(lambda p, g: p - step * g, params, gradient))

    return jax.lax.map(after, steps)


def _longest(found: Mapping[str, Any], row: Sequence[float | None]) -> float:
    """Returns the longest step after which the loss is not higher than before."""
    start, longest = row[0], 0.0
    for step, loss in zip(found["steps"][1:], row[1:], strict=True):
        if start is None or loss is None or loss > start:
            break
        longest = step
    return longest


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns the longest step that does not raise the loss, for each variant."""
    said = []
    for name, rows in found["losses"].items():
        longest = [_longest(found, row) for row in rows]
        said.append(
            f"Along the gradient, {name}: the longest step (of those tried) up to "
            f"which the loss never exceeds its start is {min(longest):.2g} to "
            f"{max(longest):.2g} ({len(rows)} seeds, smallest to largest)."
        )
    return said


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the chart of the loss over the length of the step."""
    curves = []
    for style, (name, rows) in enumerate(found["losses"].items()):
        columns = list(zip(*rows, strict=True))[1:]
        finite = [all(loss is not None for loss in column) for column in columns]
        last = finite.index(False) if False in finite else len(finite)
        if last:
            values = [student_interval(list(column)) for column in columns[:last]]
            steps = found["steps"][1 : last + 1]
            curves.append(plots.Curve(name, steps, values, style))
    if not curves:
        return []
    title = "Loss after one step along the gradient"
    svg = plots.line_chart(
        curves,
        title=title,
        description=f"{title}, by the length of the step.",
        x_label="length of the step: the learning rate (logarithmic)",
        y_label="loss of the same batch",
        bounds=(0.0, 20.0),
        ticks={step: f"{step:g}" for step in (0.001, 0.01, 0.1, 1.0, 10.0)},
    )
    caption = "Means with 95 % intervals over the seeds; losses above 20 are cut off."
    return [html.Charts([html.Chart(svg, title, caption)])]


LOSS_ALONG_GRADIENT = Measurement("loss_along_gradient", measure, show, sentences, 1e11)
