"""One convolution by hand: forward, and its three gradients as numbers."""

from __future__ import annotations

import functools
import math
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
    num_seeds,
    verdict,
    wrong,
)
from backprop_pictures import matrix, number

from cnn_jax import kernels as K
from cnn_jax.geometry import Window
from cnn_jax.report import html, table
from cnn_jax.studies import Context, Measurement

IMAGE = np.array([[1.0, 2, 0, 1], [0, 1, 3, 1], [2, 1, 0, 2], [1, 0, 2, 1]])
FILTER = np.array([[1.0, 0, 2], [-1, 1, 0], [0, 2, -1]])
BIAS = np.array(1.0)
TARGET = np.array([[4.0, 8], [6, 5]])

CASES: Mapping[str, Mapping[str, int]] = {
    "stride 1, no padding": {"strides": 1, "padding": 0},
    "stride 2, padding 1": {"strides": 2, "padding": 1},
}

RANDOM_SHAPES = ((2, 7, 6, 3), (3, 3, 3, 4))
RANDOM_GEOMETRY: Mapping[str, Any] = {"strides": (2, 1), "padding": "SAME"}

LOOPS, KERNELS = "textbook loops", "kernels"
OWN_GRAD, LAX_GRAD = "jax.grad of kernels", "jax.grad of plain lax"
DIFFERENCES = "finite differences"
OTHERS = (KERNELS, OWN_GRAD, LAX_GRAD, DIFFERENCES)

ENTRIES = {"y": (0, 1), "dx": (1, 2), "dw": (1, 2), "db": ()}
"""The entry of each whose sum is written out."""


def measure(context: Context) -> dict[str, Any]:
    """Returns both cases with every number by every method, and random draws."""
    with jax.enable_x64(True):
        cases = {name: _case(**geometry) for name, geometry in CASES.items()}
        random = _random_checks(num_seeds(context))
    return {"cases": cases, "random": random, "num_seeds": num_seeds(context)}


def _case(**geometry: int) -> dict[str, Any]:
    """Returns one case: "values" by method, "checks" and "written" sums."""
    values = {
        LOOPS: _gradients(K.textbook, **geometry),
        KERNELS: _by_kernels(**geometry),
        OWN_GRAD: _by_grad(K.conv, **geometry),
        LAX_GRAD: _by_grad(K.autodiff.conv, **geometry),
        DIFFERENCES: _by_differences(**geometry),
    }
    reference = values[LOOPS]
    checks = [
        check(
            gradient,
            method,
            values[method][gradient],
            reference[gradient],
            BY_DIFFERENCES if method == DIFFERENCES else 1e-12,
        )
        for gradient in ("y", "dx", "dw", "db")
        for method in OTHERS
        if gradient in values[method]
    ]
    written = _written(reference, **geometry)
    checks += [
        check(name, "sum written out", sum(map(math.prod, terms)), reference[name][at])
        for (name, terms), at in zip(written.items(), ENTRIES.values(), strict=True)
    ]
    return {
        "values": {
            method: {name: each.tolist() for name, each in found.items()}
            for method, found in values.items()
        },
        "checks": checks,
        "written": written,
    }


def _gradients(kernels: Any, **geometry: int) -> dict[str, Any]:
    """Returns y and the gradients of half the squared error, by four functions."""
    x, w = IMAGE[None, ..., None], FILTER[..., None, None]  # NHWC and HWIO
    y = kernels.conv(x, w, BIAS[None], **geometry)
    dy = y - TARGET[None, ..., None]
    dx = kernels.conv_input_grad(dy, w, input_shape=x.shape, **geometry)
    dw = kernels.conv_filter_grad(x, dy, filter_shape=w.shape, **geometry)
    found = {"y": y, "dy": dy, "dx": dx, "dw": dw, "db": kernels.conv_bias_grad(dy)}
    return {name: each.squeeze() for name, each in found.items()}


def _by_kernels(**geometry: int) -> dict[str, np.ndarray]:
    found = jax.jit(lambda: _gradients(K, **geometry))()  # one program, not fifty
    return {name: np.asarray(each) for name, each in found.items()}


def _by_grad(conv: Any, **geometry: int) -> dict[str, np.ndarray]:
    def loss(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        y = conv(x[None, ..., None], w[..., None, None], b[None], **geometry)
        return jnp.sum((y[0, ..., 0] - TARGET) ** 2) / 2

    arguments = tuple(map(jnp.asarray, (IMAGE, FILTER, BIAS)))
    found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
    return dict(zip(("dx", "dw", "db"), map(np.asarray, found), strict=True))


def _by_differences(**geometry: int) -> dict[str, np.ndarray]:
    def loss(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> float:
        y = K.textbook.conv(x[None, ..., None], w[..., None, None], b, **geometry)
        return float(np.sum((y[0, ..., 0] - TARGET) ** 2) / 2)

    return {
        name: finite_differences(loss, (IMAGE, FILTER, BIAS), place)
        for place, name in enumerate(("dx", "dw", "db"))
    }


def _written(values: Mapping[str, np.ndarray], **geometry: int) -> dict[str, Any]:
    """Returns the products whose sum is one entry of y and of each gradient."""
    window = Window.resolve(IMAGE.shape, FILTER.shape, dilation=1, **geometry)
    dy = values["dy"]
    places = [(o, t, p) for o, t, p in K.textbook.placements(window)]
    return {
        "y": [[IMAGE[p], FILTER[t]] for o, t, p in places if o == ENTRIES["y"]]
        + [[float(BIAS)]],
        "dx": [[dy[o], FILTER[t]] for o, t, p in places if p == ENTRIES["dx"]],
        "dw": [[IMAGE[p], dy[o]] for o, t, p in places if t == ENTRIES["dw"]],
        "db": [[each] for each in dy.ravel()],
    }


def _random_checks(num_draws: int) -> list[dict[str, Any]]:
    """Compares the gradients of random convolutions with channels and a batch."""
    x_shape, w_shape = RANDOM_SHAPES

    @jax.jit
    def by_lax(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        def conv(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
            return K.autodiff.conv(x, w, b, **RANDOM_GEOMETRY)

        return jax.vjp(conv, x, w, jnp.zeros(w.shape[-1]))[1](dy)

    def by_hand(kernels: Any, x: Any, w: Any, dy: Any) -> tuple[Any, ...]:
        dx = kernels.conv_input_grad(dy, w, input_shape=x_shape, **RANDOM_GEOMETRY)
        dw = kernels.conv_filter_grad(x, dy, filter_shape=w_shape, **RANDOM_GEOMETRY)
        return dx, dw, kernels.conv_bias_grad(dy)

    methods = {
        LOOPS: functools.partial(by_hand, K.textbook),
        KERNELS: jax.jit(functools.partial(by_hand, K)),
    }
    checks = []
    for seed in range(num_draws):
        generator = np.random.default_rng(seed)
        x, w = (generator.normal(size=shape) for shape in RANDOM_SHAPES)
        dy = generator.normal(size=K.textbook.conv(x, w, **RANDOM_GEOMETRY).shape)
        references = by_lax(x, w, dy)
        for method, gradients in methods.items():
            for name, each, reference in zip(
                ("dx", "dw", "db"), gradients(x, w, dy), references, strict=True
            ):
                checks.append(check(name, method, each, reference))
    return checks


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns whether the methods agree, for each case."""
    said = []
    for name, case in found["cases"].items():
        said += verdict(f"By hand, {name}", case["checks"])
    shapes = f"{RANDOM_SHAPES[0]} with {RANDOM_SHAPES[1]}"
    subject = f"{found['num_seeds']} random convolutions, {shapes}, against jax.grad"
    return [*said, *verdict(subject, found["random"])]


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the matrices, the sums and the comparisons."""
    blocks: list[Any] = []
    for name, case in found["cases"].items():
        values = case["values"][LOOPS]
        at = {key: [place] for key, place in ENTRIES.items()}
        blocks += [
            html.Paragraph(
                f"{name.capitalize()}. Loss: half the sum of (y - target) squared, so "
                f"that dy = y - target. The bias is {number(float(BIAS))} and db is "
                f"{number(values['db'])}. Framed entries are written out below."
            ),
            html.Pictures(
                [
                    matrix(IMAGE, "x", "input"),
                    matrix(FILTER, "w", "filter"),
                    matrix(values["y"], "y", "output", "", at["y"]),
                    matrix(TARGET, "target", "output"),
                ]
            ),
            html.Pictures(
                [
                    matrix(values["dy"], "dy", "gradient"),
                    matrix(values["dw"], "dw", "gradient", "", at["dw"]),
                    matrix(values["dx"], "dx", "gradient", "", at["dx"]),
                ]
            ),
            html.Code("\n".join(_sum(key, case) for key in ENTRIES)),
            check_table("Each method beside the loops", case["checks"]),
            html.Details(
                f"Every number by every method, {name}", [_every_number(name, case)]
            ),
        ]
    blocks.append(
        html.Paragraph(
            f"The same with channels and a batch: {found['num_seeds']} draws of random "
            f"x {list(RANDOM_SHAPES[0])}, w {list(RANDOM_SHAPES[1])} and dy, with "
            "strides 2 and 1 and SAME padding, beside JAX's own gradient of plain lax."
        )
    )
    return [*blocks, check_table("Random convolutions", found["random"])]


def _sum(name: str, case: Mapping[str, Any]) -> str:
    """Returns an entry as the sum of its products."""
    place = ENTRIES[name]
    terms = ["·".join(map(_factor, factors)) for factors in case["written"][name]]
    value = number(float(np.asarray(case["values"][LOOPS][name])[place]))
    where = f"[{', '.join(map(str, place))}]" if place else ""
    return f"{name}{where} = {' + '.join(terms)} = {value}"


def _factor(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _every_number(name: str, case: Mapping[str, Any]) -> table.Table:
    """Returns a row for each entry and a column for each method."""
    methods = (LOOPS, *OTHERS)
    rows = []
    for gradient in ("y", "dw", "db", "dx"):
        for place in np.ndindex(np.shape(case["values"][LOOPS][gradient])):
            where = f"[{', '.join(map(str, place))}]" if place else ""
            row: dict[str, Any] = {"entry": f"{gradient}{where}"}
            for method in methods:
                if gradient in case["values"][method]:
                    row[method] = float(
                        np.asarray(case["values"][method][gradient])[place]
                    )
            rows.append(row)
    columns = [table.Column(method, method, "", ".6f") for method in methods]
    return table.Table(
        f"Every number, {name}", [table.Column("entry", "Entry"), *columns], rows
    )


CONVOLUTION = Measurement(
    "by_hand", measure, show, sentences, cost=1e8, failures=wrong(sentences)
)
