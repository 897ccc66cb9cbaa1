"""The first updates of a filter that learns Sobel's, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from backprop_checks import (
    BY_DIFFERENCES,
    check,
    check_table,
    finite_differences,
    verdict,
)
from backprop_pictures import matrix
from backprop_sobel import RATE, SOBEL, inputs

from cnn_jax import kernels as K
from cnn_jax.report import html
from cnn_jax.studies import Context, Measurement

NUM_STEPS = 3

Function = Any
"""A loss, of the filter and of the convolution to use."""


def measure(context: Context) -> dict[str, Any]:
    """Returns the first updates of seed 0, each gradient found in five ways."""
    generator = np.random.default_rng(0)
    w = generator.normal(size=(3, 3)) / 3  # as in `backprop_sobel`
    images = context.splits["train"].images.mean(axis=-1) / 255
    x = inputs(images, generator)["averaged"][..., None]
    target = K.textbook.conv(x, SOBEL[..., None, None], padding="VALID")

    def loss(w: Any, conv: Any) -> Any:
        y = conv(x, w[..., None, None], padding="VALID")
        return ((y - target) ** 2).mean() / 2

    checks, steps = [], []
    with jax.enable_x64(True):
        by_grad = {
            name: jax.jit(jax.grad(lambda w, conv=kernels.conv: loss(w, conv)))
            for name, kernels in (("kernels", K), ("plain lax", K.autodiff))
        }
        for number in range(NUM_STEPS):
            error = K.textbook.conv(x, w[..., None, None], padding="VALID") - target
            dw, by_loops = (
                np.asarray(
                    kernels.conv_filter_grad(
                        x, error, filter_shape=(3, 3, 1, 1), padding="VALID"
                    )
                )[..., 0, 0]
                / error.size
                for kernels in (K, K.textbook)
            )
            others = {"textbook loops": by_loops}
            for name, grad in by_grad.items():
                others[f"jax.grad of {name}"] = np.asarray(grad(jnp.asarray(w)))
            name = f"dw of step {number}"
            checks += [check(name, other, dw, each) for other, each in others.items()]
            slopes = finite_differences(lambda w: loss(w, K.textbook.conv), (w,), 0)
            checks.append(check(name, "finite differences", dw, slopes, BY_DIFFERENCES))
            after = w - RATE * dw
            steps.append(
                {
                    "filter": w.tolist(),
                    "gradient": dw.tolist(),
                    "updated": after.tolist(),
                    "losses": [float(loss(w, K.textbook.conv)) for w in (w, after)],
                }
            )
            w = after
    return {"rate": RATE, "steps": steps, "checks": checks}


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns whether the gradients agree, and what the updates do to the loss."""
    losses = [step["losses"][0] for step in found["steps"]]
    losses.append(found["steps"][-1]["losses"][1])
    return [
        *verdict("The kernel's gradients of the first updates", found["checks"]),
        f"Over {len(found['steps'])} updates the loss goes "
        + " -> ".join(f"{loss:.4f}" for loss in losses)
        + " (seed 0).",
    ]


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the filters, their gradients and the comparisons."""
    charts = []
    for number, step in enumerate(found["steps"]):
        before, after = step["losses"]
        charts += [
            matrix(step["filter"], f"w {number}", "filter", f"loss {before:.4f}"),
            matrix(step["gradient"], f"dw {number}", "gradient"),
        ]
    last = matrix(step["updated"], f"w {number + 1}", "filter", f"loss {after:.4f}")
    first = found["steps"][0]
    old, slope, new = (first[key][0][0] for key in ("filter", "gradient", "updated"))
    return [
        html.Paragraph(
            "The first updates of seed 0 on images averaged over 4x4 pixels: the "
            "filter, the gradient of half the mean squared error, and the next filter, "
            f"w - {found['rate']:g} dw. The first entry: {old:.4f} - {found['rate']:g} "
            f"· ({slope:.4f}) = {new:.4f}."
        ),
        html.Pictures([*charts, last]),
        check_table("The kernel's gradient beside others", found["checks"]),
    ]


FIRST_UPDATES = Measurement("first_updates", measure, show, sentences, cost=1e8)
