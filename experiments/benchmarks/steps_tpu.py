"""Compares whole training steps, ours and stock Flax's, as a TPU's compiler sees them.

    pip install -e ".[tpu]" && python experiments/benchmarks/steps_tpu.py
    python experiments/benchmarks/steps_tpu.py resnet50 --batch 256 --json steps.json

Each network is compiled twice for a slice of a TPU pod that need not be there, on our
layers and on stock `flax.linen` ones under JAX's autodiff (see `stock_flax.py`): the
step that the training loop takes, SGD with momentum. Nothing runs. Compared are the
compiler's estimates of cycles, the bytes that it counts as accessed, the temporaries
that it plans, and the all-reduces that stand in the program. Both compile at a time,
each for one to three minutes on a core of its own.

Needs jax, libtpu, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import importlib.metadata
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cnn_jax.messages import warn
from cnn_jax.planning import topology as slices
from cnn_jax.planning.collectives import count_collectives
from cnn_jax.planning.hlo import sum_cycles

NETWORKS = (
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "vgg16_bn",
    "mobilenet_v2",
)

SCOPES = {"jit": "global", "shard_map": "device"}
"""Strategy -> whose images share a batch normalisation's statistics."""

QUANTITIES = ("cycles", "bytes", "temporaries")

SIDES = ("ours", "stock")


def say(text: str) -> None:
    warn(text)


def field(text: str) -> tuple[str, Any]:
    """Reads `NAME=VALUE`, the value a Python literal."""
    name, _, value = text.partition("=")
    return name, ast.literal_eval(value)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="*", default=NETWORKS, help="some of `cnn-jax models`")
    add("--topology", default="v5e:2x4", help="the TPU slice to compile for")
    add("--batch", type=int, default=64, help="images a chip")
    add("--image-size", type=int, default=224, help="height and width")
    add("--dtype", default="bfloat16", help="of activations; parameters are float32")
    add(
        "--fields",
        nargs="+",
        type=field,
        default=(),
        metavar="NAME=VALUE",
        help="fields of the models to change, such as 'stage_sizes=(1, 1, 1, 1)'",
    )
    add(
        "--strategies",
        nargs="+",
        choices=tuple(SCOPES),
        default=("jit",),
        help="jit has the whole batch's statistics, shard_map each device's own",
    )
    add(
        "--at-most",
        type=float,
        metavar="RATIO",
        help="exit with 1 if a step of ours needs more than this times stock's, or has "
        "more all-reduces",
    )
    add(
        "--quantities",
        nargs="+",
        choices=QUANTITIES,
        default=("cycles",),
        help="what --at-most looks at",
    )
    add("--platform", choices=("tpu",), default="tpu", help="there is no other")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    return parser.parse_args(arguments)


def compiler_version() -> str:
    return importlib.metadata.version("libtpu")


def describe(program: Any) -> dict[str, Any]:
    """Returns what the compiler says of a program."""
    text = program.as_text()
    cycles, num_unknown = sum_cycles(text)
    return {
        "cycles": cycles,
        "bytes": int(program.cost_analysis()["bytes accessed"]),
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "all_reduces": count_collectives(text)["all-reduce"],
        "without_estimate": num_unknown,
    }


def compare(
    model: str, strategy: str, options: argparse.Namespace, devices: Sequence[Any]
) -> dict[str, Any]:
    """Compiles a network's step on our layers and on stock ones."""
    from compiled_steps import StepSettings, trace_step

    settings = StepSettings(
        *(model, options.batch, options.image_size, options.dtype),
        {"data": len(devices)},
        strategy=strategy,
        scope=SCOPES[strategy],
        fields=dict(options.fields),
    )
    result = {
        "model": model,
        "strategy": strategy,
        "scope": settings.scope,
        "batch": options.batch,
    }
    traced = {
        side: trace_step(settings, devices, platform="tpu", stock=side == "stock")
        for side in SIDES
    }
    with concurrent.futures.ThreadPoolExecutor(len(SIDES)) as pool:
        steps = {side: pool.submit(step.compile) for side, step in traced.items()}
    for side in SIDES:
        step = steps[side].result()
        described = describe(step.program)
        described["compile_seconds"] = step.compile_seconds
        result |= {f"{side}_{name}": value for name, value in described.items()}
        say(
            f"    {side}: {described['cycles'] / 1e6:,.2f} M cycles, "
            f"{described['all_reduces']} all-reduces ({step.compile_seconds:.0f} s)"
        )
    for quantity in QUANTITIES:
        ours, stock = (result[f"{side}_{quantity}"] for side in SIDES)
        result[f"{quantity}_ratio"] = ours / stock
    return result


def find_excesses(
    results: Sequence[dict[str, Any]], most: float, quantities: Sequence[str]
) -> Iterator[str]:
    """Yields where our step needs more than `most` times what stock's needs.

    All-reduces, and instructions of which the compiler estimates nothing, may not be
    more than stock's in any case.
    """
    limits = dict.fromkeys(quantities, most)
    limits |= {"all_reduces": 1.0, "without_estimate": 1.0}
    for result in results:
        for quantity, limit in limits.items():
            ours, stock = (result[f"{side}_{quantity}"] for side in SIDES)
            if ours > limit * stock:
                yield (
                    f"{result['model']}, {result['strategy']}: {ours:,} "
                    f"{quantity.replace('_', ' ')}, stock {stock:,}"
                )


def table(results: Sequence[dict[str, Any]], title: str) -> Any:
    from cnn_jax.report.table import Column, table_of

    shown = (
        ("cycles", "cycles", "M", ",.1f", 1e-6),
        ("bytes", "traffic", "GB", ",.1f", 1e-9),
        ("temporaries", "temporaries", "GiB", ",.2f", 2**-30),
    )
    columns = [
        Column("model", "network"),
        Column("strategy", "strategy"),
        Column("scope", "batch norm"),
    ]
    for quantity, header, *style in shown:
        columns += [
            Column(f"{side}_{quantity}", f"{header}, {side}", *style) for side in SIDES
        ]
        columns.append(Column(f"{quantity}_ratio", "ratio", "", ".3f"))
    columns += [
        Column(f"{side}_all_reduces", f"all-reduces, {side}", "", "d") for side in SIDES
    ]
    return table_of(title, tuple(columns), results)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    plans = [(model, way) for model in options.models for way in options.strategies]
    say(f"Compiling {len(plans)} times two steps, some minutes each ...")
    slices.prepare_environment()
    from output import print_tables, write_report

    devices = slices.find_devices(slices.parse_topology(options.topology))
    names = ("topology", "batch", "image_size", "dtype")
    facts = {name: getattr(options, name) for name in names}
    facts["fields"] = dict(options.fields)
    facts["libtpu"] = compiler_version()
    facts["platform"] = f"compiled for {options.topology}"
    results: list[dict[str, Any]] = []
    started = time.monotonic()
    for number, (model, strategy) in enumerate(plans, start=1):
        elapsed = time.monotonic() - started
        left = elapsed / max(number - 1, 1) * (len(plans) - number + 1)
        eta = f", about {math.ceil(left / 60)} min left" if number > 1 else ""
        say(f"[{number}/{len(plans)}] {model}, {strategy}{eta}")
        results.append(compare(model, strategy, options, devices))
        if options.json:  # after each: a broken run keeps the others
            write_report(options.json, results, **facts)
    title = (
        f"Training steps compiled for {options.topology}, {options.batch} images a "
        f"chip, {options.dtype}"
    )
    print_tables([table(results, title)], as_markdown=options.markdown)
    if options.at_most is None:
        return 0
    excesses = list(find_excesses(results, options.at_most, options.quantities))
    print("\n".join(excesses) or f"no step needs more than {options.at_most} times")
    return 1 if excesses else 0


if __name__ == "__main__":
    sys.exit(main())
