"""The size of the gradient in each layer of a network, before and after training."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import load_pretrained, trees
from cnn_jax.data import normalize
from cnn_jax.report import html, plots
from cnn_jax.report.statistics import student_interval
from cnn_jax.studies import Context, Measurement
from cnn_jax.training.run.keys import make_keys

NUM_EXAMPLES = 128


def measure(context: Context) -> dict[str, Any]:
    """Returns the norm of the loss's gradient in each convolution, layer by layer.

    Of one batch, with batch norm in training mode, for each seed: at the weights that
    the run starts from, and at those that it ended with.

    Returns:
      variant -> "initial" and "trained" -> for each seed the Euclidean norm of the
      gradient of each convolution's filters, in the order of the layers.
    """
    train = context.splits["train"]
    x = normalize(train.images[:NUM_EXAMPLES], *train.channel_statistics)
    labels = jnp.asarray(train.labels[:NUM_EXAMPLES])
    found: dict[str, Any] = {}
    for name, model in context.models.items():
        norms = jax.jit(functools.partial(_norms, model))
        # Run a few times, so compiled fast: optimising the random numbers of a deep
        # network takes XLA's CPU compiler half a minute.
        init = (
            jax.jit(functools.partial(model.init, train=False))
            .lower(jax.random.key(0), x[:1])
            .compile(compiler_options={"xla_backend_optimization_level": 0})
        )
        rows: dict[str, list[list[float]]] = {"initial": [], "trained": []}
        for (variant, seed), directory in context.runs.items():
            if variant != name:
                continue
            trained, _ = load_pretrained(model, directory)
            initial = init(make_keys(seed).parameters, x[:1])
            for when, variables in (("initial", initial), ("trained", trained)):
                rows[when].append([float(norm) for norm in norms(variables, x, labels)])
        found[name] = rows
    return found


def _norms(
    model: Any, variables: Mapping[str, Any], x: jax.Array, labels: jax.Array
) -> list[jax.Array]:
    """Returns the norm of the gradient of each convolution's filters."""

    def loss(params: Any) -> jax.Array:
        logits, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    gradients = trees.named_leaves(jax.grad(loss)(variables["params"]))
    return [jnp.linalg.norm(leaf) for leaf in gradients.values() if leaf.ndim == 4]


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns how much larger the first layer's gradient is than the last's."""
    said = []
    for name, rows in found.items():
        ratios = [np.log10(norms[0] / norms[-1]) for norms in rows["initial"]]
        low, high = 10 ** min(ratios), 10 ** max(ratios)
        said.append(
            f"Gradient before training, {name}: the first convolution's norm is "
            f"{low:.3g} to {high:.3g} times the last one's "
            f"({len(ratios)} seeds, smallest to largest)."
        )
    return said


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the charts of the norms by layer."""
    charts = []
    for when, title in (
        ("initial", "Gradient by layer before training"),
        ("trained", "Gradient by layer after training"),
    ):
        curves = [
            plots.Curve(
                name,
                # Shallow and deep networks over one axis: the share of the depth.
                [100 * layer / (len(rows[when][0]) - 1) for layer in layers],
                [
                    student_interval([np.log10(norms[layer]) for norms in rows[when]])
                    for layer in layers
                ],
                style,
            )
            for style, (name, rows) in enumerate(found.items())
            for layers in (range(len(rows[when][0])),)
        ]
        svg = plots.line_chart(
            curves,
            title=title,
            description=f"{title}: the logarithm of the norm from the first "
            "convolution to the last.",
            x_label="place in the network, % of its depth",
            y_label="log10 of the gradient's norm",
        )
        caption = "Norm of the loss's gradient of each convolution's filters."
        charts.append(html.Chart(svg, title, caption))
    return [html.Charts(charts)]


GRADIENT_NORMS = Measurement("gradient_norms", measure, show, sentences, cost=2e11)
