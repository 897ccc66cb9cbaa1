"""Counts the collectives of a training step, strategy by strategy.

    python experiments/benchmarks/collectives.py --json collectives.json
    python experiments/benchmarks/collectives.py --platform tpu --topology v5e:2x4

The step is compiled for a mesh of devices and never run: for as many simulated CPUs, or
for a slice of a TPU pod that need not be there (this needs `pip install jax[tpu]`). The
collectives are counted in the compiled program; where the compiler has merged several
arrays into one exchange it counts as one.

The nine plans compile in 17 minutes on two CPU cores, three for a TPU in 74 (results
`experiments/results/collectives_cpu.json` and `collectives_tpu_v5e.json`); a line for
each says about how long the rest will take.

Needs jax, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from cnn_jax.messages import warn
from cnn_jax.planning import topology as slices
from cnn_jax.planning.collectives import count_collectives

KINDS = {
    "all_reduces": "all-reduce",
    "all_gathers": "all-gather",
    "reduce_scatters": "reduce-scatter",
    "all_to_alls": "all-to-all",
    "permutes": "collective-permute",
}

# Name, strategy, axis beside `data` and how many devices it takes (0: all), scope of
# batch norm. `--plans` matches "name, scope".
PLANS = (
    ("jit, data parallel", "jit", None, 1, "global"),
    ("jit, data parallel", "jit", None, 1, "device"),
    ("jit, fsdp", "jit", "fsdp", 0, "global"),
    ("jit, fsdp", "jit", "fsdp", 0, "device"),
    ("jit, spatial", "jit", "spatial", 2, "global"),
    ("shard_map", "shard_map", None, 1, "global"),
    ("shard_map", "shard_map", None, 1, "device"),
    ("shard_map, bfloat16 sums", "shard_map", None, 1, "device"),
    ("pmap", "pmap", None, 1, "device"),
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", nargs="?", default="resnet50", help="one of `cnn-jax models`")
    add("--platform", choices=("cpu", "tpu"), default="cpu", help="what to compile for")
    add("--topology", default="v5e:2x4", help="the slice, with --platform tpu")
    add("--devices", type=int, default=8, help="how many, with --platform cpu")
    add("--batch", type=int, default=8, help="images a device")
    add("--image-size", type=int, default=224, help="height and width")
    add("--dtype", default="bfloat16", help="of activations; parameters are float32")
    add("--plans", default="", metavar="REGEX", help="compile matching plans only")
    add("--at-most", type=int, help="exit with 1 if a plan has more all-reduces")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    return parser.parse_args(arguments)


def prepare_platform(options: argparse.Namespace) -> None:
    """Sets what JAX reads once, when it is first asked for a device."""
    import jax

    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")  # jax has read its environment already
    slices.prepare_environment()
    if options.platform == "cpu":
        count = f" --xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + count


def find_devices(options: argparse.Namespace) -> list[Any]:
    import jax

    if options.platform == "tpu":
        return slices.find_devices(slices.parse_topology(options.topology))
    return jax.devices()


def examine(plan: tuple, devices: Sequence[Any], options: argparse.Namespace) -> dict:
    """Compiles the step by one plan and returns its result."""
    from compiled_steps import StepSettings, trace_step

    name, strategy, axis, size, scope = plan
    size = size or len(devices)
    axes = {"data": len(devices) // size, **({axis: size} if axis else {})}
    settings = StepSettings(
        *(options.model, options.batch, options.image_size, options.dtype, axes),
        strategy=strategy,
        scope=scope,
        reduce_dtype="bfloat16" if "bfloat16" in name else None,
    )
    traced = trace_step(settings, devices, platform=options.platform, stock=False)
    step = traced.compile()
    memory = step.program.memory_analysis()
    counts = count_collectives(step.program.as_text())
    return {
        "name": name,
        "scope": scope,
        "mesh": ",".join(f"{axis}={size}" for axis, size in axes.items()),
        **{name: counts[kind] for name, kind in KINDS.items()},
        "kept_bytes": step.kept_bytes,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "compile_seconds": step.compile_seconds,
    }


def table(results: Sequence[dict[str, Any]], title: str) -> Any:

    from cnn_jax.report.table import Column, table_of

    mebibytes = [
        {
            **result,
            "kept": result["kept_bytes"] / 2**20,
            "temporary": (result["temporary_bytes"] or 0) / 2**20,
        }
        for result in results
    ]
    columns = (
        Column("name", "strategy"),
        Column("mesh", "mesh"),
        Column("scope", "batch norm"),
        *(Column(name, kind) for name, kind in KINDS.items()),
        Column("kept", "parameters + optimizer", "MiB", ".1f"),
        Column("temporary", "temporaries", "MiB", ".0f"),
    )
    return table_of(title, columns, mebibytes)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    prepare_platform(options)
    from output import Steps, print_tables, write_report

    devices = find_devices(options)
    results = []
    # pmap runs on devices that are there.
    plans = [
        plan
        for plan in PLANS
        if re.search(options.plans, f"{plan[0]}, {plan[4]}")
        and (plan[1], options.platform) != ("pmap", "tpu")
    ]
    if not plans:
        warn(f"--plans {options.plans!r}: no plan is called so.")
        return 2
    where = options.topology if options.platform == "tpu" else f"{len(devices)} CPUs"
    facts = {name: getattr(options, name) for name in ("model", "batch", "dtype")} | {
        "target": where,
        "image_size": options.image_size,
    }
    steps = Steps(len(plans))
    for plan in plans:
        steps.begin(f"{plan[0]}, batch norm {plan[4]}")
        results.append(examine(plan, devices, options))
        if options.json:  # After each: a plan takes minutes.
            write_report(options.json, results, **facts)
    title = (
        f"{options.model} on {where}: collectives of a training step, "
        f"{options.batch} images a device"
    )
    print_tables([table(results, title)], as_markdown=options.markdown)
    most = max(result["all_reduces"] for result in results)
    return int(options.at_most is not None and most > options.at_most)


if __name__ == "__main__":
    sys.exit(main())
