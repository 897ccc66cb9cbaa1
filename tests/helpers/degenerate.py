"""Draws degenerate geometries and evaluates them: run in a process of its own.

    python degenerate.py SEED PROGRAM [PROGRAM ...]

XLA checks some of what it is given by ending the process. So every program of
`DRAWS_PER_PROGRAM` kernels is announced before it is compiled, so that
this process's output shows which one ended it. With `--each` every kernel is a program.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys

import jax
import numpy as np

from cnn_jax import kernels
from cnn_jax.analysis.cases import Case, normal, spaced
from cnn_jax.analysis.gradcheck import FAST_COMPILATION, draw_like, pull_back
from cnn_jax.geometry import Window

DRAWS_PER_PROGRAM = 8
TOLERANCE = 2e-5

KERNELS = (
    "conv",
    "conv_input_grad",
    "conv_filter_grad",
    "conv_transpose",
    "conv_general_dilated",
    "max_pool",
    "max_pool_grad",
    "avg_pool",
    "avg_pool_grad",
    "adaptive_avg_pool",
    "global_avg_pool",
)


def draw(generator: np.random.Generator, kernel: str) -> Case:
    """Draws empty and tiny arrays, and windows that crop, miss or overstep them."""
    rank = int(generator.integers(1, 4))

    def each(*values):
        return tuple(int(v) for v in generator.choice(values, rank))

    batch, groups = (
        int(generator.choice([0, 1, 1, 2, 2, 2])),
        int(generator.choice([1, 1, 2])),
    )
    inputs, outputs = (int(v) for v in generator.choice([0, 1, 1, 2, 2, 8, 8], 2))
    sizes = each(0, 1, 1, 2, 3, 3, 6, 6)
    taps = each(1, 1, 2, (9, 5, 3)[rank - 1])
    options = {"strides": each(1, 1, 1, 2, 7, 100), "dilation": each(1, 1, 2, 50)}
    if generator.random() < 0.4:  # such a window does nothing but crop and pad
        taps = options["strides"] = (1,) * rank
    options["padding"] = padding(generator, sizes)
    x = (batch, *sizes, groups * inputs)
    if kernel == "global_avg_pool":
        return Case(kernel, "drawn", {"x": normal(*x)})
    if kernel == "adaptive_avg_pool":
        return Case(kernel, "drawn", {"x": normal(*x)}, {"output_size": each(1, 2, 9)})
    if "pool" in kernel:
        options["window"] = taps
        if kernel.startswith("avg"):
            del options["dilation"]
            options["count_include_pad"] = bool(generator.integers(2))
        arguments = {"x": spaced(*x)}
        if kernel.endswith("grad"):
            arguments["dy"] = normal(batch, *outputs_of(sizes, options), x[-1])
        if kernel == "avg_pool_grad":
            del arguments["x"]
            options["input_shape"] = x
        elif kernel == "avg_pool":
            arguments = {"x": normal(*x)}
        return Case(kernel, "drawn", arguments, options)
    w = (*taps, inputs, groups * outputs)
    if kernel == "conv_general_dilated":
        letters = "DHW"[-rank:]
        options = {
            "window_strides": options["strides"],
            "padding": options["padding"],
            "lhs_dilation": each(1, 1, 3),
            "rhs_dilation": options["dilation"],
            "dimension_numbers": (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            "feature_group_count": groups,
        }
        arguments = {"lhs": normal(*x), "rhs": normal(*w)}
        return Case(kernel, "drawn", arguments, options)
    dy = normal(batch, *outputs_of(sizes, {**options, "window": taps}), w[-1])
    arguments = {"x": normal(*x), "w": normal(*w)}
    if kernel == "conv_input_grad":
        arguments = {"dy": dy, "w": normal(*w)}
    elif kernel == "conv_filter_grad":
        arguments = {"x": normal(*x), "dy": dy}
    options["groups"] = groups
    if kernel == "conv_input_grad":
        options["input_shape"] = x
    elif kernel == "conv_filter_grad":
        options["filter_shape"] = w
    return Case(kernel, "drawn", arguments, options)


def padding(generator, sizes):
    """Draws amounts of which most crop, up to all of the input; half only crop."""
    pairs, most = [], int(generator.choice([0, 2]))
    for size in sizes:
        low = int(generator.integers(-size, most + 1))
        high = int(generator.integers(-size - min(low, 0), most + 1))
        pairs.append((low, high))
    return tuple(pairs)


def outputs_of(sizes, options):
    names = ("window", "strides", "padding", "dilation")
    window, strides, pairs, dilation = (options.get(name, 1) for name in names)
    return Window.resolve(
        sizes, window, strides=strides, padding=pairs, dilation=dilation
    ).output_sizes


def cases_of(seed: int, program: int) -> list[Case]:
    """The draws of one program, the same in every process."""
    generator = np.random.default_rng([seed, program])
    first = program * DRAWS_PER_PROGRAM
    return [
        draw(generator, KERNELS[(first + number) % len(KERNELS)])
        for number in range(DRAWS_PER_PROGRAM)
    ]


def evaluate(cases: list[Case], proofs) -> tuple[int, int]:
    """Compares values and gradients with the textbook's.

    Returns:
      How many cases were right, and how many were refused by a `ValueError`.
    """
    points, accepted = [], []
    for number, case in enumerate(cases):
        arguments = case.draw(number, np.float32)
        kernel = getattr(kernels, case.kernel)
        try:
            output = jax.eval_shape(
                lambda a, c=case, k=kernel: c.apply(k, a), arguments
            )
        except ValueError as error:
            if "got" not in str(error):
                raise AssertionError(f"{case}: not our sentence: {error}") from error
            continue
        accepted.append(case)
        points.append((arguments, draw_like(output, number)))

    def program(points):
        return [
            pull_back(getattr(kernels, case.kernel), case, *point)
            for case, point in zip(accepted, points, strict=True)
        ]

    results = jax.jit(program, compiler_options=FAST_COMPILATION)(points)
    for case, point, result in zip(accepted, points, results, strict=True):
        expected = proofs.evaluate_by_textbook(case, *point)
        try:
            proofs.assert_close(result, expected, TOLERANCE)
        except AssertionError as error:
            shapes = {name: a.shape for name, a in point[0].items()}
            raise AssertionError(
                f"{case.kernel} {shapes} {case.options}: {error}"
            ) from error
    return len(accepted), len(cases) - len(accepted)


def load_proofs():
    path = pathlib.Path(__file__).parents[1] / "kernels" / "test_proofs.py"
    spec = importlib.util.spec_from_file_location("cnn_jax_proofs", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def describe(case: Case) -> str:
    shapes = {name: a.shape for name, a in case.draw(0, np.float32).items()}
    return f"{case.kernel} {shapes} {case.options}"


def main(arguments: list[str]) -> None:
    each = "--each" in arguments
    seed, *programs = (int(a) for a in arguments if a != "--each")
    proofs = load_proofs()
    for program in programs:
        cases = cases_of(seed, program)
        for group in [[case] for case in cases] if each else [cases]:
            what = describe(group[0]) if each else ""
            print("program", program, what, flush=True)
            print("passed", *evaluate(group, proofs), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
