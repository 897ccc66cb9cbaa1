"""A filter that becomes a Sobel edge detector by gradient descent, step by step."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from backprop_checks import num_seeds, with_interval, wrong
from backprop_pictures import grey, picture, signed

from cnn_jax import kernels as K
from cnn_jax.report import html, plots, table
from cnn_jax.report.statistics import student_interval
from cnn_jax.report.words import count
from cnn_jax.studies import Context, Measurement

SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
RATE = 0.15
NUM_IMAGES = 32
AVERAGED = 4
"""Digits are enlarged from 8x8 pixels: averages over 4x4 make them so again."""

KINDS = {
    "averaged": "images averaged over 4x4 pixels",
    "smooth": "images as they are",
    "noise": "white noise",
}

LEARNED = 0.005
"""The largest difference from the Sobel filter at which it counts as learned: 1 % of
its largest entry."""

DRAWN = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Steps of the pictures, and those whose loss is kept beside the first."""

FLOOR = 1e-12
"""The smallest relative loss that is drawn: below, float64 has only rounding."""


def measure(context: Context) -> dict[str, Any]:
    """Returns how the filter is learned from images, averaged images and noise.

    Gradient descent on half the mean squared error between the output and that of the
    Sobel filter, float64, at one learning rate; for each seed its own images and its
    own random start.
    """
    num_steps = 200 if context.is_smoke else 2000
    images = context.splits["train"].images.mean(axis=-1) / 255
    runs: dict[str, list[dict[str, Any]]] = {}
    with jax.enable_x64(True):
        for seed in range(num_seeds(context)):
            generator = np.random.default_rng(seed)
            start = generator.normal(size=(3, 3)) / 3
            for name, x in inputs(images, generator).items():
                runs.setdefault(name, []).append(_learn(x, start, num_steps))
                if (name, seed) == ("averaged", 0):
                    image = x[0]
    return {
        "num_steps": num_steps,
        "rate": RATE,
        "runs": runs,
        "image": image.round(3).tolist(),
    }


def inputs(images: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns images `(n, height, width)` of mean 0 and deviation 1, by their kind."""
    chosen = generator.choice(len(images), min(NUM_IMAGES, len(images)), replace=False)
    x = images[chosen]
    averaged = np.asarray(K.textbook.avg_pool(x[..., None], AVERAGED))[..., 0]
    kinds = {"averaged": averaged, "smooth": x}
    kinds["noise"] = generator.normal(size=averaged.shape)
    return {name: (each - each.mean()) / each.std() for name, each in kinds.items()}


def _learn(x: np.ndarray, start: np.ndarray, num_steps: int) -> dict[str, Any]:
    """Descends from one start.

    Returns:
      "losses" relative to that of a filter of zeros, by step; "learned_at", the first
      step at which the filter is learned, or None; "filters" at `DRAWN`;
      "condition", the ratio of the largest to the smallest curvature; "largest_rate",
      beyond which descent diverges.
    """
    eigenvalues = np.linalg.eigvalsh(_curvature(x))
    found = _descend(x[..., None], start[..., None, None], num_steps)
    filters, losses = (np.asarray(each) for each in found)
    filters = filters.reshape(-1, 3, 3)
    distances = np.abs(filters - SOBEL).max(axis=(1, 2))
    is_learned = distances <= LEARNED
    kept = [step for step in (0, *MARKS) if step <= num_steps]
    return {
        "losses": {str(step): float(losses[step]) for step in kept},
        "distance": float(distances[-1]),
        "learned_at": int(is_learned.argmax()) if is_learned.any() else None,
        "filters": {
            str(step): filters[step].round(4).tolist()
            for step in DRAWN
            if step <= num_steps
        },
        "condition": float(eigenvalues[-1] / eigenvalues[0]),
        "largest_rate": float(2 / eigenvalues[-1]),
    }


def _curvature(x: np.ndarray) -> np.ndarray:
    """Returns the matrix of second derivatives: the mean of patch times patch."""
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    patches = patches.reshape(-1, 9)
    return patches.T @ patches / len(patches)


@functools.partial(jax.jit, static_argnums=2)
def _descend(
    x: jax.Array, start: jax.Array, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the filter and the relative loss before each step and after the last."""
    target = K.conv(x, jnp.asarray(SOBEL)[..., None, None], padding="VALID")

    def step(w: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        error = K.conv(x, w, padding="VALID") - target
        dw = K.conv_filter_grad(x, error, filter_shape=w.shape, padding="VALID")
        loss = jnp.sum(error**2) / jnp.sum(target**2)
        return w - RATE * dw / error.size, (w, loss)

    return jax.lax.scan(step, start, length=num_steps + 1)[1]


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns after how many steps the filter is learned, by the kind of input."""
    said = []
    for kind, runs in found["runs"].items():
        number = [run["learned_at"] for run in runs if run["learned_at"] is not None]
        distance = with_interval([run["distance"] for run in runs], ".2g")
        condition = with_interval([run["condition"] for run in runs], ",.3g")
        when = (
            f"within {LEARNED:g} of the Sobel filter after "
            f"{with_interval(number, ',.0f')} steps"
            if len(number) == len(runs)
            else f"within {LEARNED:g} of the Sobel filter in {len(number)} of "
            f"{count(len(runs), 'run')} of {found['num_steps']:,} steps; at their end "
            f"the largest difference is {distance}"
        )
        losses = [run["losses"][max(run["losses"], key=int)] for run in runs]
        said.append(
            f"From {KINDS[kind]} at a learning rate of {found['rate']:g}: {when}. "
            f"Condition number of the second derivatives {condition}; loss at the end "
            f"{max(losses):.1e} of the target's or less."
        )
    return said


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the row of filters, the loss and the table."""
    run = found["runs"]["averaged"][0]
    image = np.asarray(found["image"])
    strips = [
        _strip(image, np.asarray(w), f"step {int(step):,}", f"loss {_loss(run, step)}")
        for step, w in run["filters"].items()
    ]
    strips.append(_strip(image, SOBEL, "target", "Sobel filter"))
    return [
        html.Paragraph(
            "Seed 0, images averaged over 4x4 pixels. Above the filter, below it its "
            "output for one image; red is positive, blue negative. The loss is "
            "relative to that of a filter of zeros."
        ),
        html.Pictures([picture([grey(image)], "image", "one of the batch"), *strips]),
        html.Charts([_loss_chart(found)]),
        _table(found),
    ]


def _loss(run: Mapping[str, Any], step: str) -> str:
    return f"{run['losses'][step]:.2g}"


def _strip(image: np.ndarray, w: np.ndarray, title: str, caption: str) -> Any:
    output = K.textbook.conv(
        image[None, ..., None], w[..., None, None], padding="VALID"
    )[0, ..., 0]
    target = K.textbook.conv(
        image[None, ..., None], SOBEL[..., None, None], padding="VALID"
    )
    parts = [signed(w, 0.7), signed(output, float(np.abs(target).max()))]
    return picture(parts, title, caption)


def _loss_chart(found: Mapping[str, Any]) -> html.Chart:
    curves = []
    for style, (kind, runs) in enumerate(found["runs"].items()):
        steps = [step for step in runs[0]["losses"] if step != "0"]
        values = [
            student_interval(
                [math.log10(max(run["losses"][step], FLOOR)) for run in runs]
            )
            for step in steps
        ]
        curves.append(plots.Curve(kind, [int(step) for step in steps], values, style))
    title = "Loss while a filter becomes the Sobel filter"
    svg = plots.line_chart(
        curves,
        title=title,
        description=f"{title}: noise falls fastest, smooth images slowest.",
        x_label="step (logarithmic)",
        y_label="log10 of the relative loss",
        ticks={step: f"{step:g}" for step in (1, 10, 100, 1000)},
    )
    caption = (
        f"Means and 95 % intervals over {count(len(runs), 'seed')}; no lower than "
        f"{FLOOR:.0e}, where rounding begins."
    )
    return html.Chart(svg, title, caption)


def _table(found: Mapping[str, Any]) -> table.Table:
    rows = []
    for kind, runs in found["runs"].items():
        steps = [run["learned_at"] for run in runs]
        rows.append(
            {
                "kind": KINDS[kind],
                "condition": student_interval([run["condition"] for run in runs]),
                "largest_rate": student_interval([run["largest_rate"] for run in runs]),
                "learned_at": None if None in steps else student_interval(steps),
                "distance": student_interval([run["distance"] for run in runs]),
            }
        )
    return table.Table(
        "Learning the Sobel filter",
        [
            table.Column("kind", "Input"),
            table.Column(
                "condition",
                "Condition",
                "",
                ",.3g",
                note="The largest curvature of the loss over its smallest.",
            ),
            table.Column(
                "largest_rate",
                "Largest rate",
                "",
                ".3f",
                note="2 over the largest curvature: beyond, descent diverges.",
            ),
            table.Column(
                "learned_at",
                "Steps",
                "",
                ",.0f",
                note=f"Until no entry differs from the Sobel filter by more than "
                f"{LEARNED:g}; a dash if some run ended before.",
            ),
            table.Column(
                "distance",
                "Difference",
                "",
                ".2g",
                note=f"The largest of an entry after {found['num_steps']:,} steps.",
            ),
        ],
        rows,
        [f"Means and 95 % intervals over {count(len(runs), 'seed')}."],
    )


SOBEL_FILTER = Measurement(
    "learned_filter", measure, show, sentences, cost=4e10, failures=wrong(sentences)
)
