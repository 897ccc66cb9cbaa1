"""Times every kernel, forward and each gradient, against autodiff of plain lax.

    python experiments/benchmarks/kernels.py                    # on the default device
    python experiments/benchmarks/kernels.py --cases depthwise  # rows that match
    python experiments/benchmarks/kernels.py --platform tpu --topology v5e:2x2

The baseline is the kernel's twin in `kernels.autodiff` under `jax.vjp`, and PyTorch
where it can be imported. Rounds are interleaved and medians compared. With
`--platform tpu` nothing runs: both are compiled for a TPU that need not be there
(libtpu must be installed) and the compiler's own estimates are compared. A line for
each layer says about how long the rest will take.

Needs jax, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from kernel_suite import LAYERS, MAX_POOL, Layer
from kernel_tables import comparison_table, group_table, layer_table
from output import Steps, print_tables, write_report

from cnn_jax import kernels as K
from cnn_jax.allocator import keep_memory
from cnn_jax.analysis.gradcheck import draw_like, relative_error
from cnn_jax.analysis.residuals import residual_bytes
from cnn_jax.analysis.timing import Timing, time_interleaved
from cnn_jax.messages import warn
from cnn_jax.planning import topology as slices
from cnn_jax.planning.hlo import sum_cycles

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"


@dataclasses.dataclass(frozen=True)
class Program:
    """One pass of one implementation: a function and its arguments (or their types)."""

    fn: Callable[..., Any]
    arguments: tuple[Any, ...]

    def compile(self):
        """Compiles the function for its arguments."""
        return jax.jit(self.fn).lower(*self.arguments).compile()


def pass_program(layer: Layer, fn: Callable, name: str, arguments, dy) -> Program:
    """Builds the program of one pass.

    The backward pass alone starts from what the forward pass saved: the function that
    `jax.vjp` returns is a tree of arrays, and so can be an argument.

    Args:
      layer: The row.
      fn: The kernel or its twin.
      name: A key of `layer.passes`.
      arguments: The layer's arguments: name -> array or `jax.ShapeDtypeStruct`.
      dy: The output's cotangent, likewise.
    """
    apply = functools.partial(layer.case.apply, fn)
    if name == FORWARD:
        return Program(apply, (arguments,))
    by = layer.passes[name]

    def linearize(arguments):
        moving = {key: arguments[key] for key in by}
        return jax.vjp(lambda moving: apply({**arguments, **moving}), moving)

    def forward_and_backward(arguments, dy):
        y, vjp_fn = linearize(arguments)
        return y, vjp_fn(dy)[0]

    if name == BOTH:
        return Program(forward_and_backward, (arguments, dy))
    if isinstance(jax.tree.leaves(dy)[0], jax.ShapeDtypeStruct):
        vjp_fn = jax.eval_shape(lambda arguments: linearize(arguments)[1], arguments)
    else:
        vjp_fn = jax.jit(lambda arguments: linearize(arguments)[1])(arguments)
    return Program(lambda vjp_fn, dy: vjp_fn(dy)[0], (vjp_fn, dy))


def implementations(layer: Layer) -> dict[str, Callable]:
    """Returns the kernel and its twin."""
    name = layer.case.kernel
    return {"ours": getattr(K, name), "autodiff": getattr(K.autodiff, name)}


def draw(layer: Layer, dtype):
    """Draws the arguments and a cotangent for the output."""
    arguments = layer.case.draw(0, dtype)
    output = jax.eval_shape(
        functools.partial(layer.case.apply, implementations(layer)["autodiff"]),
        arguments,
    )
    return arguments, draw_like(output, 1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement, from the command line."""

    dtype: Any
    repeats: int
    max_seconds: float
    has_torch: bool


def measure(layer: Layer, settings: Settings) -> Iterator[dict[str, Any]]:
    """Yields one result for each pass of a layer, measured on the default device."""
    arguments, dy = draw(layer, settings.dtype)
    peers = {}
    if settings.has_torch:
        import torch_peers

        peers = torch_peers.passes(layer, arguments, dy)
    fns = implementations(layer)
    for name in layer.passes:
        programs = {
            label: pass_program(layer, fn, name, arguments, dy)
            for label, fn in fns.items()
        }
        compiled = {label: program.compile() for label, program in programs.items()}
        calls = {
            label: functools.partial(compiled[label], *programs[label].arguments)
            for label in programs
        }
        outputs = {label: call() for label, call in calls.items()}
        result = describe(layer, name) | {
            "error": max(
                map(
                    relative_error,
                    jax.tree.leaves(outputs["ours"]),
                    jax.tree.leaves(outputs["autodiff"]),
                )
            )
        }
        del outputs
        if name in peers:
            calls["torch"] = peers[name]
        timings = _time(calls, settings)
        for label, timing in timings.items():
            result[f"{label}_seconds"] = timing.median
            result[f"{label}_quartiles"] = timing.quartiles
            result["rounds"] = len(timing.seconds)
        for label, program in compiled.items():
            result[f"{label}_temporaries"] = _temporaries(program)
            if name != FORWARD:
                fn = functools.partial(fns[label], **layer.case.options)
                result[f"{label}_residuals"] = residual_bytes(fn, *arguments.values())
        result["same_program"] = _canonical(compiled["ours"]) == _canonical(
            compiled["autodiff"]
        )
        # Two copies of one program differ by noise alone.
        result["ratio"] = (
            1.0
            if result["same_program"]
            else result["autodiff_seconds"] / result["ours_seconds"]
        )
        yield result


DOUBTFUL = 0.95
"""A ratio below this is measured again, for longer, and the second time counts."""


def _time(calls: Mapping[str, Callable], settings: Settings) -> dict[str, Timing]:
    timings = time_interleaved(
        calls, repeats=settings.repeats, max_seconds=settings.max_seconds
    )
    if timings["autodiff"].median >= DOUBTFUL * timings["ours"].median:
        return timings
    return time_interleaved(
        calls, repeats=3 * settings.repeats, max_seconds=3 * settings.max_seconds
    )


def estimate(layer: Layer, dtype, device) -> Iterator[dict[str, Any]]:
    """Yields one result for each pass of a layer, compiled for a TPU's `device`."""
    sharding = jax.sharding.SingleDeviceSharding(device)

    def abstract(tree):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            tree,
        )

    with K.target_platform("tpu"):
        arguments, dy = abstract(draw(layer, dtype))
        for name in layer.passes:
            result = describe(layer, name)
            for label, fn in implementations(layer).items():
                program = pass_program(layer, fn, name, arguments, dy)
                program = dataclasses.replace(
                    program, arguments=abstract(program.arguments)
                )
                compiled = program.compile()
                result[f"{label}_cycles"] = estimated_cycles(compiled.as_text())
                result[f"{label}_bytes"] = compiled.cost_analysis()["bytes accessed"]
                result[f"{label}_temporaries"] = _temporaries(compiled)
            known = result["ours_cycles"] and result["autodiff_cycles"]
            result["ratio"] = (
                result["autodiff_cycles"] / result["ours_cycles"] if known else None
            )
            yield result


def estimated_cycles(hlo: str) -> int | None:
    """Sums what the TPU compiler wrote beside each instruction of a program.

    Returns:
      The sum, or None where a windowed reduction stands without an estimate, as those
      in bfloat16 mostly do: the rest of the program says nothing of its cost.
    """
    cycles, num_unknown = sum_cycles(hlo)
    return None if num_unknown else cycles


def _canonical(compiled) -> str:
    """Returns a compiled program's text without where it came from."""
    text = re.sub(r", metadata=\{[^}]*\}", "", compiled.as_text())
    text = text[text.index("\n%") :] if "\n%" in text else text
    text = re.sub(r"[\w.-]+: (?=[a-z0-9]+\[)", "", text)  # the arguments' names
    numbers: dict[str, str] = {}
    return re.sub(
        r"%[\w.-]+", lambda m: numbers.setdefault(m[0], f"%{len(numbers)}"), text
    )


def describe(layer: Layer, name: str) -> dict[str, Any]:
    return {
        "layer": str(layer),
        "network": layer.network,
        "kernel": layer.case.kernel,
        "label": layer.case.label,
        "group": layer.group,
        "pass": name,
    }


def _temporaries(compiled) -> int | None:
    analysis = compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--platform",
        choices=("default", "tpu"),
        default="default",
        help="tpu: compile for one that need not be there",
    )
    add("--topology", default="v5e:2x2", help="the TPU slice to compile for")
    add("--dtype", default=None, help="float32, or bfloat16 (the default for a TPU)")
    add("--cases", default="", metavar="REGEX", help="measure matching layers only")
    add("--passes", default="", metavar="REGEX", help="measure matching passes only")
    add("--repeats", type=int, default=15, help="rounds for each pass, at most")
    add("--max-seconds", type=float, default=3.0, help="no new round after this time")
    add("--no-torch", action="store_true", help="leave PyTorch out")
    add(
        "--at-most",
        type=float,
        metavar="RATIO",
        help="with --platform tpu: exit with 1 if a pass needs more than this times "
        "autodiff's cycles or temporaries",
    )
    add("--json", type=pathlib.Path, help="write every result to this file")
    add("--markdown", action="store_true", help="print the tables for a README")
    add(
        "--show",
        type=pathlib.Path,
        nargs="+",
        metavar="JSON",
        help="measure nothing; compare what earlier runs wrote with --json",
    )
    add("--list", action="store_true", help="list the layers and stop")
    return parser.parse_args(arguments)


def selected_layers(cases: str, passes: str) -> list[Layer]:
    """Returns the layers of the suite that match, with the passes that match."""
    layers = []
    for layer in LAYERS:
        kept = {
            name: by for name, by in layer.passes.items() if re.search(passes, name)
        }
        if kept and re.search(cases, str(layer)):
            layers.append(dataclasses.replace(layer, passes=kept))
    return layers


def can_import_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.show:
        reports = [json.loads(path.read_text()) for path in options.show]
        print_tables([comparison_table(reports)], as_markdown=options.markdown)
        return 0
    layers = selected_layers(options.cases, options.passes)
    if not layers:
        print(f"--cases {options.cases!r} --passes {options.passes!r}: nothing matches")
        return 2
    if options.list:
        print("\n".join(map(str, layers)))
        return 0
    on_tpu = options.platform == "tpu"
    if on_tpu:  # before jax is asked for a device
        slices.prepare_environment()
    dtype = jnp.dtype(options.dtype or ("bfloat16" if on_tpu else "float32"))
    if on_tpu:
        device, *_ = slices.find_devices(slices.parse_topology(options.topology))
        run = functools.partial(estimate, dtype=dtype, device=device)
    else:
        keep_memory()
        settings = Settings(
            dtype,
            options.repeats,
            options.max_seconds,
            can_import_torch() and not options.no_torch,
        )
        run = functools.partial(measure, settings=settings)
    facts = {"dtype": dtype.name}
    if on_tpu:
        facts["platform"] = f"compiled for {options.topology}"
    results = []
    steps = Steps(len(layers))
    for layer in layers:
        steps.begin(str(layer))
        for result in run(layer):
            results.append(result)
            ratio = "?" if result["ratio"] is None else f"{result['ratio']:.2f}"
            warn(f"    {result['pass']}: {ratio}")
        if options.json:  # after each layer, so that a broken run keeps the others
            write_report(options.json, results, **facts)
    print_tables(
        [layer_table(results), group_table(results)], as_markdown=options.markdown
    )
    if options.at_most is None:
        return 0
    excesses = list(find_excesses(results, options.at_most))
    print("\n".join(excesses) or f"no pass needs more than {options.at_most} times")
    return 1 if excesses else 0


ACCEPTED = {
    ("avg_pool", FORWARD): "sums in float32, where autodiff adds bfloat16 numbers",
    ("drop_block", FORWARD): "a third of the cycles for 32 KB more of temporaries",
    ("drop_block", BOTH): "the same",
    ("gelu", BOTH): "reads x again; between layers that saves a float32 array",
}
"""(kernel, pass) -> why it may need more than autodiff."""


def find_excesses(results: Sequence[dict], most: float) -> Iterator[str]:
    """Yields where a pass needs more than `most` times what autodiff needs.

    Of max-pooling, the backward pass counts alone as well. Other kernels pay there for
    what they did not save, and are judged by both passes in one program.
    """
    for result in results:
        if result["pass"] == BACKWARD and result["group"] != MAX_POOL:
            continue
        if (result["kernel"], result["pass"]) in ACCEPTED:
            continue
        for what in ("cycles", "temporaries"):
            ours, autodiff = (result[f"{who}_{what}"] for who in ("ours", "autodiff"))
            if None not in (ours, autodiff) and ours > most * autodiff:
                yield (
                    f"{result['layer']}, {result['pass']}: {ours:,} {what}, autodiff "
                    f"{autodiff:,}"
                )


if __name__ == "__main__":
    sys.exit(main())
