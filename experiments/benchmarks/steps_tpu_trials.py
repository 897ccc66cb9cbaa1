"""Compiles parts of training steps for a TPU with kernels in other forms.

    pip install -e ".[tpu]" && python experiments/benchmarks/steps_tpu_trials.py
    python experiments/benchmarks/steps_tpu_trials.py --json trials.json

Shows what each form is worth to a step, by the compiler's estimates. A part is the
training step of a network that is cut off after its first blocks, which compiles in a
minute or two; the rest of a network repeats what is in it. The variants are named
functions that put another form into the kernels while the step is traced; the first is
the step as it is, the last the same network on stock Flax layers. Nothing runs.

Needs jax, libtpu, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
from steps_tpu import compiler_version, describe, say

from cnn_jax.planning import topology as slices

Patch = tuple[str, str, Any]
"""A module of `cnn_jax.kernels`, a name in it, and what stands there meanwhile."""


def as_it_is() -> Sequence[Patch]:
    """The kernels as they are."""
    return ()


def stock() -> Sequence[Patch]:
    """Stock Flax layers under JAX's autodiff."""
    return ()


def pooled_last() -> Sequence[Patch]:
    """Normalises, applies relu and pools, one after the other.

    The passes over z and y, and the sums of the backward pass, then run over four times
    as many entries as there are windows.
    """
    return (("batch_norm", "is_after_maximum", lambda *arguments: False),)


def mean_from_entries() -> Sequence[Patch]:
    """Takes the mean from each entry, where it is otherwise taken from the sums.

    An operation for each entry more, in each of three passes.
    """

    def subtracted(mean: jax.Array, *arguments: Any) -> jax.Array:
        return mean

    modules = ("batch_norm", "batch_norm_pool")
    return tuple((module, "subtracted", subtracted) for module in modules)


def as_it_was() -> Sequence[Patch]:
    """Both of these."""
    return (*pooled_last(), *mean_from_entries())


def stored_dz() -> Sequence[Patch]:
    """Stores dz = f'(z) dy, also for relu, whose mask is otherwise formed again.

    Written once and read twice, instead of dy and a mask from x read twice.
    """

    def is_costly(activation: Any, target: str) -> bool:
        return activation is not None and target == "tpu"

    return (("batch_norm", "_is_costly_on_tpu", is_costly),)


def no_shift() -> Sequence[Patch]:
    """Forms the sums of x and x^2, without subtracting the running mean first.

    An operation for each entry less, where a convolution's results are summed.
    """
    old = importlib.import_module("cnn_jax.kernels.batch_norm").batch_statistics

    def batch_statistics(x: jax.Array, shift: Any, *arguments: Any) -> Any:
        del shift
        return old(x, None, *arguments)

    modules = ("batch_norm", "batch_norm_pool")
    return tuple((module, "batch_statistics", batch_statistics) for module in modules)


def depthwise() -> Sequence[Patch]:
    """Leaves depthwise convolutions of few channels to XLA.

    A matrix unit of 128 x 128 cells then works on a channel at a time.
    """
    return (("platforms.tpu", "_MOST_CHANNELS", 0),)


def wider_dense() -> Sequence[Patch]:
    """Computes depthwise convolutions of up to 144 channels as dense ones.

    They have 144 times the multiply-adds, and two blocks of a matrix unit.
    """
    return (("platforms.tpu", "_MOST_CHANNELS", 144),)


VARIANTS: Mapping[str, Sequence[Callable[[], Sequence[Patch]]]] = {
    "resnet50": (
        *(as_it_is, pooled_last, mean_from_entries, as_it_was, stored_dz, no_shift),
        stock,
    ),
    "efficientnet_b0": (as_it_is, depthwise, wider_dense, stock),
}
"""Network -> what is tried on its part."""


def part(model: str) -> Mapping[str, Any]:
    """Returns the fields of a network that cut it off after its first blocks."""
    if model == "resnet50":
        return {"stage_sizes": (1,), "stage_features": (256,)}
    from cnn_jax.models.efficientnet import scaled_stages

    return {"stages": scaled_stages(1.0, 1.0)[:2]}


@contextlib.contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Has other functions stand in modules of the kernels meanwhile."""
    with contextlib.ExitStack() as stack:
        for module, name, value in patches:
            found = importlib.import_module(f"cnn_jax.kernels.{module}")
            stack.enter_context(mock.patch.object(found, name, value))
        jax.clear_caches()  # of programs traced before
        yield
    jax.clear_caches()


def compile_part(
    model: str,
    variant: Callable[[], Sequence[Patch]],
    options: argparse.Namespace,
    devices: Sequence[Any],
    *,
    platform: str = "tpu",
) -> dict[str, Any]:
    """Compiles the part of a network in a variant, and returns the estimates."""
    from compiled_steps import StepSettings, trace_step

    settings = StepSettings(
        *(model, options.batch, options.image_size, options.dtype),
        {"data": len(devices)},
        fields=part(model),
    )
    with patched(variant()):
        step = trace_step(settings, devices, platform=platform, stock=variant is stock)
    result = {"model": model, "variant": variant.__name__, "batch": options.batch}
    return result | describe(step.compile().program)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="*", default=tuple(VARIANTS), help="some of these")
    add("--topology", default="v5e:2x4", help="the TPU slice to compile for")
    add("--batch", type=int, default=256, help="images a chip")
    add("--image-size", type=int, default=224, help="height and width")
    add("--dtype", default="bfloat16", help="of activations; parameters are float32")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    return parser.parse_args(arguments)


def table(results: Sequence[dict[str, Any]], title: str) -> Any:
    from cnn_jax.report.table import Column, table_of

    columns = (
        Column("model", "network"),
        Column("variant", "variant"),
        Column("cycles", "cycles", "M", ",.2f", 1e-6),
        Column("bytes", "traffic", "GB", ",.2f", 1e-9),
        Column("temporaries", "temporaries", "GiB", ",.2f", 2**-30),
    )
    return table_of(title, columns, results)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    trials = [
        (model, variant) for model in options.models for variant in VARIANTS[model]
    ]
    say(f"Compiling {len(trials)} parts of steps, a minute or two each ...")
    slices.prepare_environment()
    from output import print_tables, write_report

    devices = slices.find_devices(slices.parse_topology(options.topology))
    names = ("topology", "batch", "image_size", "dtype")
    facts = {name: getattr(options, name) for name in names}
    facts |= {"libtpu": compiler_version()}
    facts["platform"] = f"compiled for {options.topology}"
    results: list[dict[str, Any]] = []
    for number, (model, variant) in enumerate(trials, start=1):
        started = time.monotonic()
        say(f"[{number}/{len(trials)}] {model}: {variant.__doc__.splitlines()[0]}")
        results.append(compile_part(model, variant, options, devices))
        cycles, seconds = results[-1]["cycles"], time.monotonic() - started
        say(f"    {cycles / 1e6:,.2f} M cycles ({seconds:.0f} s)")
        if options.json:  # after each: a broken run keeps the others
            write_report(options.json, results, **facts)
    title = f"Parts of training steps compiled for {options.topology}"
    print_tables([table(results, title)], as_markdown=options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
