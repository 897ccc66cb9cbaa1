"""The gradient through max- and average pooling by hand: winners, overlaps and ties."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from backprop_checks import (
    BY_DIFFERENCES,
    check,
    check_table,
    finite_differences,
    verdict,
    wrong,
)
from backprop_pictures import matrix, number

from cnn_jax import kernels as K
from cnn_jax.report import html
from cnn_jax.studies import Context, Measurement

WINDOWS = np.array([[1.0, 5, 2, 2], [3, 4, 2, 2], [7, 0, 1, 6], [2, 1, 9, 3]])
OVERLAPPING = np.array(
    [
        [1.0, 0, 2, 1, 0],
        [0, 1, 1, 2, 1],
        [2, 1, 9, 0, 3],
        [0, 1, 0, 2, 1],
        [1, 0, 3, 1, 0],
    ]
)

CASES: Mapping[str, tuple[np.ndarray, np.ndarray, Mapping[str, int]]] = {
    "windows of 2x2": (WINDOWS, np.array([[1.0, 2], [-3, 4]]), {"window": 2}),
    "windows of 3x3, stride 2": (
        OVERLAPPING,
        np.array([[1.0, 2], [3, 4]]),
        {"window": 3, "strides": 2},
    ),
}
"""The input, the gradient that arrives and the geometry: those of the notebook."""

MAX, AVERAGE = "max-pooling", "average pooling"
METHODS = ("kernels", "jax.grad of kernels", "jax.grad of plain lax")
FORWARD = {MAX: "max_pool", AVERAGE: "avg_pool"}


def measure(context: Context) -> dict[str, Any]:
    """Returns both cases: their gradients by every method, and the winners."""
    del context
    with jax.enable_x64(True):
        return {name: _case(*case) for name, case in CASES.items()}


def _case(x: np.ndarray, dy: np.ndarray, geometry: Mapping[str, int]) -> dict[str, Any]:
    """Returns the gradients of one case and how they agree."""
    image, errors = x[None, ..., None], dy[None, ..., None]
    found: dict[str, Any] = {"x": x.tolist(), "dy": dy.tolist(), "checks": []}
    by_hand = {
        MAX: K.textbook.max_pool_grad(image, errors, **geometry),
        AVERAGE: K.textbook.avg_pool_grad(errors, input_shape=image.shape, **geometry),
    }
    others = jax.jit(lambda x: _by_jax(x, errors, geometry))(image)
    is_tied = _in_tied_windows(x, geometry)
    for pool, reference in by_hand.items():
        found[pool] = {"dx": reference[0, ..., 0].tolist()}
        found["checks"] += [
            check(f"dx of {pool}", name, others[pool][name], reference)
            for name in METHODS
        ]
        function = getattr(K.textbook, FORWARD[pool])
        differences = finite_differences(
            lambda x, function=function: (function(x, **geometry) * errors).sum(),
            (image,),
            0,
        )
        found[pool]["differences"] = differences[0, ..., 0].tolist()
        # A maximum of equal values has no derivative: that is shown, not compared.
        kept = ~is_tied if pool == MAX else np.ones(x.shape, bool)
        found["checks"].append(
            check(
                f"dx of {pool}",
                "finite differences",
                differences[0, ..., 0][kept],
                reference[0, ..., 0][kept],
                BY_DIFFERENCES,
            )
        )
    found["winners"] = _winners(x, geometry)
    found["is_tied"] = is_tied.tolist()
    return found


def _by_jax(
    x: jax.Array, dy: np.ndarray, geometry: Mapping[str, int]
) -> dict[str, dict[str, jax.Array]]:
    """Returns the gradients by the kernels' functions and by `jax.grad`, by pool."""
    found = {
        MAX: {"kernels": K.max_pool_grad(x, dy, **geometry)},
        AVERAGE: {"kernels": K.avg_pool_grad(dy, input_shape=x.shape, **geometry)},
    }
    for name, kernels in (("kernels", K), ("plain lax", K.autodiff)):
        for pool, own in found.items():
            function = functools.partial(getattr(kernels, FORWARD[pool]), **geometry)
            grad = jax.grad(lambda x, f=function: (f(x) * dy).sum())
            own[f"jax.grad of {name}"] = grad(x)
    return found


def _winners(x: np.ndarray, geometry: Mapping[str, int]) -> list[list[int]]:
    """Returns the row and column to which each window sends its gradient."""
    image = x[None, ..., None]
    y = K.textbook.max_pool(image, **geometry)
    winners = []
    for place in np.ndindex(y.shape):
        one = np.zeros(y.shape)
        one[place] = 1
        sent = K.textbook.max_pool_grad(image, one, **geometry)[0, ..., 0]
        winners.append([int(each) for each in np.argwhere(sent == 1)[0]])
    return winners


def _in_tied_windows(x: np.ndarray, geometry: Mapping[str, int]) -> np.ndarray:
    """Returns which entries are a maximum that their window has more than once."""
    window, stride = geometry["window"], geometry.get("strides", geometry["window"])
    is_tied = np.zeros(x.shape, bool)
    for row in range(0, x.shape[0] - window + 1, stride):
        for column in range(0, x.shape[1] - window + 1, stride):
            part = x[row : row + window, column : column + window]
            largest = part == part.max()
            if largest.sum() > 1:
                is_tied[row : row + window, column : column + window] |= largest
    return is_tied


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns whether the methods agree, and what happens at a tie."""
    said = []
    for name, case in found.items():
        said += verdict(f"Pooling by {name}", case["checks"])
    said.append(_of_ties(found["windows of 2x2"]))
    return said


def _of_ties(case: Mapping[str, Any]) -> str:
    """Returns what differences say where a window's maximum is not unique."""
    is_tied = np.asarray(case["is_tied"])
    places = ", ".join(f"[{row}, {column}]" for row, column in np.argwhere(is_tied))
    ours, differences = (
        ", ".join(number(value) for value in np.asarray(case[MAX][key])[is_tied])
        for key in ("dx", "differences")
    )
    return (
        f"At the tie of {places} the gradient is {ours}: all to the first in row-major "
        f"order. Central differences give {differences}: the maximum has a corner "
        "there, and no derivative."
    )


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the matrices, the routes and the comparisons."""
    blocks: list[Any] = []
    for name, case in found.items():
        winners = {tuple(place) for place in case["winners"]}
        blocks += [
            html.Paragraph(
                f"{name.capitalize()}. Framed: the maximum of each window, which gets "
                "its whole gradient; average pooling gives each entry an equal share."
            ),
            html.Pictures(
                [
                    matrix(case["x"], "x", "input", "", winners),
                    matrix(case["dy"], "dy", "gradient"),
                    matrix(case[MAX]["dx"], "dx, maximum", "gradient", "", winners),
                    matrix(case[AVERAGE]["dx"], "dx, average", "gradient"),
                    matrix(case[MAX]["differences"], "by differences", "gradient"),
                ]
            ),
            html.Code(_routes(case)),
            check_table("Each method beside the loops", case["checks"]),
        ]
    return blocks


def _routes(case: Mapping[str, Any]) -> str:
    """Returns where each window sends its gradient, a line each."""
    dy = np.asarray(case["dy"])
    return "\n".join(
        f"dy[{row}, {column}] = {number(dy[row, column])} goes to x{winner}"
        for (row, column), winner in zip(
            np.ndindex(dy.shape), case["winners"], strict=True
        )
    )


POOLING = Measurement(
    "by_hand", measure, show, sentences, cost=1e8, failures=wrong(sentences)
)
