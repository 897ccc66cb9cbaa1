"""The ways of the gradient when images and their features are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from backprop_checks import num_seeds, with_interval, wrong
from backprop_pictures import grey, packed, picture, signed, unpacked
from backprop_pooling import AVERAGE, MAX

from cnn_jax import kernels as K
from cnn_jax.report import html, table
from cnn_jax.report.statistics import student_interval
from cnn_jax.report.words import count
from cnn_jax.studies import Context, Measurement

POOLS: Mapping[str, Mapping[str, int]] = {
    "2x2": {"window": 2},
    "3x3, stride 2": {"window": 3, "strides": 2, "padding": 1},
}
"""The windows that images are pooled by."""

NUM_IMAGES = 64
NUM_FEATURES = 8


def measure(context: Context) -> dict[str, Any]:
    """Returns the shares of each seed, and the gradient by the pixels of one image."""
    images = context.splits["train"].images.mean(axis=-1, keepdims=True) / 255
    shares = []
    with jax.enable_x64(True):
        measure_seed = jax.jit(_shares)
        for seed in range(num_seeds(context)):
            generator = np.random.default_rng(seed)
            chosen = generator.permutation(len(images))[:NUM_IMAGES]
            filters = generator.normal(size=(5, 5, 1, NUM_FEATURES)) / 5
            found = measure_seed(images[chosen], filters)
            shares.append(jax.tree.map(float, found))
        flows = jax.jit(_flows)(images[:1])
    return {
        "shares": shares,
        "image": packed(images[0, ..., 0]),
        "flows": {name: packed(flow) for name, flow in flows.items()},
    }


def _shares(images: jax.Array, filters: jax.Array) -> dict[str, Any]:
    """Returns what pooling does with a gradient of ones, on images and on features.

    For each input and pool: "tied", the share of windows with more than one maximum;
    "max" and "average", the share of entries that get any gradient; "most", the most
    windows that one entry is the maximum of; "kept", the sum of max-pooling's gradient
    over that which arrived.
    """
    features = K.relu(K.conv(images, filters))
    found: dict[str, Any] = {}
    for name, x in (("images", images), ("features", features)):
        found[name] = {}
        for pool, geometry in POOLS.items():
            y, pull_back = jax.vjp(lambda x, g=geometry: K.max_pool(x, **g), x)
            (dx,) = pull_back(jnp.ones_like(y))
            arrived = {k: v for k, v in geometry.items() if k != "window"}
            shared = K.avg_pool_grad(
                jnp.ones_like(y), geometry["window"], input_shape=x.shape, **arrived
            )
            found[name][pool] = {
                "tied": (_num_maxima(x, y, geometry) > 1).mean(),
                "max": (dx != 0).mean(),
                "average": (shared != 0).mean(),
                "most": dx.max(),
                "kept": dx.sum() / y.size,
            }
    return found


def _num_maxima(x: jax.Array, y: jax.Array, geometry: Mapping[str, int]) -> jax.Array:
    """Returns how many entries of each window are equal to its maximum."""
    size = geometry["window"]
    stride, pad = geometry.get("strides", size), geometry.get("padding", 0)
    edges = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
    padded = jnp.pad(x, edges, constant_values=-jnp.inf)
    rows, columns = (stride * (extent - 1) + 1 for extent in y.shape[1:3])
    total = jnp.zeros(y.shape, int)
    for top in range(size):
        for left in range(size):
            part = padded[:, top : top + rows : stride, left : left + columns : stride]
            total += part == y
    return total


def _flows(image: jax.Array) -> dict[str, jax.Array]:
    """Returns the gradient of the sum of a pooled image by its pixels."""
    return {
        f"{name}, {pool}": jax.grad(lambda x, f=function, g=geometry: f(x, **g).sum())(
            image
        )[0, ..., 0]
        for pool, geometry in POOLS.items()
        for name, function in ((MAX, K.max_pool), (AVERAGE, K.avg_pool))
    }


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns how many ties there are, and how many entries get any gradient."""
    said = []
    for name, what in (
        ("images", "the images"),
        ("features", f"their features, {NUM_FEATURES} random 5x5 filters with a ReLU"),
    ):
        tied = with_interval(
            [100 * each[name]["2x2"]["tied"] for each in found["shares"]], ".1f"
        )
        overlapping = [each[name]["3x3, stride 2"] for each in found["shares"]]
        reached = with_interval([100 * each["max"] for each in overlapping], ".1f")
        kept = max(abs(1 - each["kept"]) for each in overlapping)
        said.append(
            f"Of {what}, windows of 2x2 with more than one maximum, in %: {tied}. "
            f"Entries that windows of 3x3 and stride 2 send any gradient to, in %: "
            f"{reached}; one collects from up to "
            f"{max(each['most'] for each in overlapping):.0f} windows, and the sum of "
            f"the gradient is that which arrived up to {kept:.2g}."
        )
    return said


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the pictures of one image and the table."""
    maps = {name: unpacked(rows) for name, rows in found["flows"].items()}
    flows = [
        picture([signed(maps[f"{name}, {pool}"], 1.0)], f"{short} {pool}", seen)
        for name, short, seen in (
            (MAX, "max", "to where each window's maximum is"),
            (AVERAGE, "average", "to all, the more windows the more"),
        )
        for pool in POOLS
    ]
    image = picture(
        [grey(unpacked(found["image"]))], "image", "the first training image"
    )
    told = "The gradient by each pixel of the sum of the pooled image, and the shares."
    return [html.Paragraph(told), html.Pictures([image, *flows]), _table(found)]


def _summary(values: Sequence[float]) -> Any:
    """Returns the mean and its interval, or the value that all seeds have."""
    return values[0] if len(set(values)) == 1 else student_interval(values)


def _table(found: Mapping[str, Any]) -> table.Table:
    rows = []
    for name, what in (("images", "images"), ("features", "random features, ReLU")):
        for pool in POOLS:
            own = [each[name][pool] for each in found["shares"]]
            rows.append(
                {"input": f"{what}, {pool}"}
                | {key: _summary([each[key] for each in own]) for key in own[0]}
            )
    percent = ("%", ".1f", 100)
    return table.Table(
        "Where the gradient goes",
        [
            table.Column("input", "Input and window"),
            table.Column(
                *("tied", "Ties", *percent),
                note="Windows with more than one maximum.",
            ),
            table.Column(
                *("max", "Max reaches", *percent),
                note="Entries that get any gradient from max-pooling.",
            ),
            table.Column(
                *("average", "Average reaches", *percent),
                note="Entries that get any gradient from average pooling.",
            ),
            table.Column(
                *("most", "Most windows", "", ".1f"),
                note="How many windows one entry is the maximum of, at most.",
            ),
            table.Column(
                *("kept", "Kept", *percent),
                note="The sum of max-pooling's gradient over the sum that arrived: "
                "nothing is lost, however many windows share an entry.",
            ),
        ],
        rows,
        [
            f"Means and 95 % intervals over {count(len(found['shares']), 'seed')}, "
            "each with its own images and filters."
        ],
    )


POOLING_IMAGES = Measurement(
    "images", measure, show, sentences, cost=2e9, failures=wrong(sentences)
)
