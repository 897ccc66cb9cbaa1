"""The gradient through batch norm by hand, and the two directions that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from backprop_checks import (
    BY_DIFFERENCES,
    FLOAT32,
    check,
    check_table,
    finite_differences,
    num_seeds,
    verdict,
    wrong,
)

from cnn_jax import kernels as K
from cnn_jax.report import table
from cnn_jax.report.words import count
from cnn_jax.studies import Context, Measurement

EPSILON = 1e-5
X = np.array([1.0, 2.0, 4.0, 5.5, 0.5, 3.0])
DY = np.array([1.0, -0.5, 2.0, 2.5, -0.5, -1.0])
SCALE, BIAS = 1.5, 0.2
"""One channel: the numbers of the notebook."""

NUM_IMAGES, NUM_CHANNELS = 32, 8

KERNEL, LOOPS = "kernel", "textbook loops"
LAX_GRAD, DIFFERENCES = "jax.grad of plain lax", "finite differences"


def measure(context: Context) -> dict[str, Any]:
    """Returns one channel in every number, and many channels of images."""
    images = context.splits["train"].images.mean(axis=-1, keepdims=True) / 255
    with jax.enable_x64(True):
        one = _one_channel()
        gradients = jax.jit(_gradients)
        channels: list[dict[str, Any]] = []
        checks: list[dict[str, Any]] = []
        for seed in range(num_seeds(context)):
            generator = np.random.default_rng(seed)
            chosen = generator.permutation(len(images))[:NUM_IMAGES]
            w = generator.normal(size=(5, 5, 1, NUM_CHANNELS)) / 5
            x = K.textbook.conv(images[chosen], w, strides=2)
            dy = generator.normal(size=x.shape)
            scale, bias = generator.normal(size=(2, NUM_CHANNELS))
            found = gradients(x, scale, bias, dy)
            checks += _compared(x, scale, dy, found)
            channels += _directions(x, scale, dy, found)
    return {"one": one, "checks": checks, "channels": channels}


def _by_formula(x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the three ways of the gradient of one channel, and their sum."""
    r = 1 / np.sqrt(x.var() + EPSILON)
    xhat = (x - x.mean()) * r
    g = SCALE * dy
    found = {
        "xhat": xhat,
        "directly": r * g,
        "through the mean": np.full(x.shape, -r * g.mean()),
        "through the variance": -r * xhat * (g * xhat).mean(),
    }
    return found | {"dx": sum(list(found.values())[1:])}


def _one_channel() -> dict[str, Any]:
    """Returns the six entries by every way and method, and how the methods agree."""
    found = _by_formula(X, DY)
    scale, bias = np.array([SCALE]), np.array([BIAS])
    by_jax = jax.jit(_gradients)(X[:, None], scale, bias, DY[:, None])
    zero = np.zeros(1)
    by_loops = K.textbook.batch_norm_grad(
        X[:, None], scale, DY[:, None], zero, zero, epsilon=EPSILON
    )

    def loss(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> float:
        y, *_ = K.textbook.batch_norm(x[:, None], scale, bias, epsilon=EPSILON)
        return float((y[:, 0] * DY).sum())

    hand = (found["dx"], (DY * found["xhat"]).sum(), DY.sum())
    checks = []
    for place, (name, reference) in enumerate(
        zip(("dx", "dscale", "dbias"), hand, strict=True)
    ):
        others = {method: each[place] for method, each in by_jax.items()}
        others[LOOPS] = by_loops[place]
        others[DIFFERENCES] = finite_differences(loss, (X, scale, bias), place)
        checks += [
            check(
                *(name, method, np.ravel(each), np.ravel(reference)),
                BY_DIFFERENCES if method == DIFFERENCES else 1e-12,
            )
            for method, each in others.items()
        ]
    return {
        "columns": {"x": X.tolist(), "dy": DY.tolist()}
        | {name: each.tolist() for name, each in found.items()}
        | {method: np.ravel(each[0]).tolist() for method, each in by_jax.items()},
        "parameters": {"dscale": float(hand[1]), "dbias": float(hand[2])},
        "sum": float(found["dx"].sum()),
        "along_xhat": float((found["dx"] * found["xhat"]).sum()),
        "expected_along_xhat": _left_along_xhat(X[:, None], scale, DY[:, None])[0],
        "checks": checks,
    }


def _gradients(x: Any, scale: Any, bias: Any, dy: Any) -> dict[str, Any]:
    """Returns dx, dscale and dbias by the kernel and by JAX's own differentiation."""
    found = {}
    for method, kernels in ((KERNEL, K), (LAX_GRAD, K.autodiff)):

        def loss(x: Any, scale: Any, bias: Any, kernels: Any = kernels) -> Any:
            y, *_ = kernels.batch_norm(x, scale, bias, epsilon=EPSILON)
            return (y * dy).sum()

        found[method] = jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)
    return found


def _compared(
    x: np.ndarray, scale: np.ndarray, dy: np.ndarray, found: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Compares the kernel with the others, in float64, and with itself in float32."""
    zero = np.zeros(NUM_CHANNELS)
    others = {
        LAX_GRAD: found[LAX_GRAD],
        LOOPS: K.textbook.batch_norm_grad(x, scale, dy, zero, zero, epsilon=EPSILON),
    }
    names = ("dx", "dscale", "dbias")
    checks = [
        check(name, method, ours, reference)
        for method, references in others.items()
        for name, ours, reference in zip(names, found[KERNEL], references, strict=True)
    ]
    narrow = (jnp.asarray(each, jnp.float32) for each in (x, scale, zero, dy))
    in_float32 = jax.jit(_gradients)(*narrow)[KERNEL]
    return checks + [
        check(name, "kernel in float32", narrow, wide, FLOAT32)
        for name, narrow, wide in zip(names, in_float32, found[KERNEL], strict=True)
    ]


def _left_along_xhat(x: np.ndarray, scale: np.ndarray, dy: np.ndarray) -> list[float]:
    """Returns the sum of dx * xhat that epsilon leaves, for each channel.

    The mean of xhat squared is v / (v + epsilon), not 1, so that of the sum of
    r g xhat the share epsilon / (v + epsilon) remains.
    """
    axes = tuple(range(x.ndim - 1))
    variance = x.var(axis=axes)
    r = 1 / np.sqrt(variance + EPSILON)
    xhat = (x - x.mean(axis=axes)) * r
    left = r * (scale * dy * xhat).sum(axis=axes) * EPSILON / (variance + EPSILON)
    return [float(each) for each in left]


def _directions(
    x: np.ndarray, scale: np.ndarray, dy: np.ndarray, found: Mapping[str, Any]
) -> list[dict[str, float]]:
    """Returns for each channel how much of dx is left along 1 and along xhat.

    Both as cosines of an angle: 0 is orthogonal. Beside them the same of dy, which has
    neither property.
    """
    dx = np.asarray(found[KERNEL][0]).reshape(-1, NUM_CHANNELS)
    x, dy = x.reshape(-1, NUM_CHANNELS), dy.reshape(-1, NUM_CHANNELS)
    xhat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + EPSILON)
    expected = _left_along_xhat(x, scale, dy)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))

    ones = np.ones(len(x))
    return [
        {
            "sum": cosine(dx[:, c], ones),
            "along_xhat": cosine(dx[:, c], xhat[:, c]),
            "expected": abs(expected[c])
            / float(np.linalg.norm(dx[:, c]) * np.linalg.norm(xhat[:, c])),
            "sum_of_dy": cosine(dy[:, c], ones),
            "dy_along_xhat": cosine(dy[:, c], xhat[:, c]),
        }
        for c in range(NUM_CHANNELS)
    ]


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns whether the methods agree, and what is left of the two directions."""
    one, channels = found["one"], found["channels"]
    largest = {name: max(each[name] for each in channels) for name in channels[0]}
    rest = max(abs(each["along_xhat"] - each["expected"]) for each in channels)
    draws = count(len(channels), "channel")
    return [
        *verdict("One channel of six numbers, by hand", one["checks"]),
        f"The six entries of dx sum to {one['sum']:.1e}; the sum of dx times xhat is "
        f"{one['along_xhat']:.3e}, and epsilon leaves "
        f"{one['expected_along_xhat']:.3e} of it.",
        *verdict(f"{draws} of random features of images, the kernel", found["checks"]),
        f"In these channels the cosine of the angle between dx and a vector of ones is "
        f"{largest['sum']:.1e} or less, and between dx and xhat "
        f"{largest['along_xhat']:.1e} or less, which is epsilon's share up to "
        f"{rest:.1e}. For dy itself the largest are {largest['sum_of_dy']:.2g} and "
        f"{largest['dy_along_xhat']:.2g}.",
        "A bias in front of batch norm has the gradient sum(dx): none.",
    ]


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the six entries, the comparisons and the two directions."""
    one = found["one"]
    names = list(one["columns"])
    entries = table.Table(
        "Six entries of one channel, and the ways of their gradient",
        [
            table.Column("place", "Entry"),
            *(
                table.Column(name, name, "", ".4f" if place > 1 else "g")
                for place, name in enumerate(names)
            ),
        ],
        [
            {"place": str(place)}
            | {name: one["columns"][name][place] for name in names}
            for place in range(len(X))
        ]
        + [
            {"place": "sum"}
            | {
                name: round(float(np.sum(one["columns"][name])), 9) + 0.0
                for name in names
            }
        ],
        [
            f"scale {SCALE:g}, bias {BIAS:g}, epsilon {EPSILON:g}. dscale = "
            f"{one['parameters']['dscale']:.4f}, dbias = "
            f"{one['parameters']['dbias']:.4f}.",
            "dx = r (g - mean(g) - xhat mean(g xhat)), with g = scale dy and r the "
            "inverse deviation: the three ways are its three terms.",
        ],
    )
    return [
        entries,
        check_table("Six entries: each method beside the formula", one["checks"]),
        check_table("Features of images: the kernel beside others", found["checks"]),
        _directions_table(found["channels"]),
    ]


def _directions_table(channels: Sequence[Mapping[str, float]]) -> table.Table:
    rows = [
        {
            "what": what,
            "mean": float(np.mean([each[key] for each in channels])),
            "largest": max(each[key] for each in channels),
        }
        for key, what in (
            ("sum", "dx and ones"),
            ("along_xhat", "dx and xhat"),
            ("expected", "dx and xhat: epsilon's share"),
            ("sum_of_dy", "dy and ones"),
            ("dy_along_xhat", "dy and xhat"),
        )
    ]
    return table.Table(
        "Cosines of angles in a channel",
        [
            table.Column("what", "Between"),
            table.Column("mean", "Mean", "", ".2g"),
            table.Column("largest", "Largest", "", ".2g"),
        ],
        rows,
        [f"Of {count(len(channels), 'channel')}; 0 is a right angle."],
    )


BATCH_NORM = Measurement(
    "by_hand", measure, show, sentences, cost=1e9, failures=wrong(sentences)
)
