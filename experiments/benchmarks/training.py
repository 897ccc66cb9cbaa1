"""Times training steps of whole networks: ours, stock Flax, PyTorch.

    python experiments/benchmarks/training.py --suite cpu --part 1
    python experiments/benchmarks/training.py --suite gpu --part 1 --json part1.json

A step is the one that the training loop takes (`cnn_jax.training.train_step`, SGD with
momentum, jitted, its state donated) on one batch that is on the device. Beside it,
interleaved in one process: the same networks on stock `flax.linen` layers under JAX's
autodiff (see `stock_flax.py`), and, where torch can be imported, PyTorch with
channels-last tensors, autocast and, as `torch_compile`, `torch.compile`. In float16 the
loss is scaled in all of them.

A part of a suite is what one run measures. A network that does not compile or does not
fit into memory is recorded with the reason, and the run goes on. The CSV file has the
columns of timm's benchmark for training: images per second, milliseconds of a step,
millions of parameters; and behind them our own. No group of networks is begun after
`--budget-seconds`, and a line for each says about how long the rest will take.

Needs jax, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from output import Steps, print_tables, write_report
from training_runs import measure
from training_suite import FRAMEWORKS, PRECISIONS, SUITES, TORCH, Group
from training_tables import training_table, write_csv

from cnn_jax.allocator import keep_memory
from cnn_jax.messages import warn


def say(text: str) -> None:
    warn(text)


@functools.cache
def torch_version() -> str | None:
    """Returns the version of torch, or None where it cannot be imported."""
    try:
        import torch
    except ImportError:
        return None
    return torch.__version__


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, help="by default the one of JAX's device")
    add("--part", type=int, nargs="+", metavar="K", help="parts; by default all")
    add("--models", nargs="+", help="only these of the parts")
    add("--precisions", nargs="+", help=f"only these of {', '.join(PRECISIONS)}")
    add("--frameworks", nargs="+", help=f"some of {', '.join(FRAMEWORKS)}")
    add("--batch", type=int, help="images a step, instead of the suite's")
    add("--image-size", type=int, help="height and width, instead of the suite's")
    add("--repeats", type=int, help="rounds of a group, at most")
    add("--max-seconds", type=float, help="no new round of a group after this time")
    add("--budget-seconds", type=float, help="no new group after this time")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--csv", type=pathlib.Path, help="write timm's columns to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    add("--list", action="store_true", help="list the suite's parts and stop")
    options = parser.parse_args(arguments)
    if options.suite is None:
        options.suite = "cpu" if jax.default_backend() == "cpu" else "gpu"
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program for invalid arguments; fills in the suite's."""
    suite = SUITES[options.suite]
    numbers = range(1, len(suite.parts) + 1)
    choices = {
        "part": numbers,
        "models": suite.batches,
        "precisions": PRECISIONS,
        "frameworks": FRAMEWORKS,
    }
    for name, known in choices.items():
        unknown = [x for x in getattr(options, name) or () if x not in known]
        if unknown:
            parser.error(
                f"--{name}: got {unknown}, expected some of {list(known)} for the "
                f"suite {options.suite}."
            )
    for name in ("batch", "image_size", "repeats", "max_seconds", "budget_seconds"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            option = name.replace("_", "-")
            parser.error(f"--{option}: got {value}, expected a positive number.")
    for name in ("repeats", "max_seconds", "budget_seconds"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(suite, name))
    options.part = options.part or list(numbers)
    of_torch = [name for name in options.frameworks or () if name in TORCH]
    if of_torch and torch_version() is None:
        parser.error(f"--frameworks: got {of_torch}, but torch cannot be imported.")
    if not selected(options):
        parser.error(
            f"--part {options.part} --models {options.models} --precisions "
            f"{options.precisions}: nothing is in all of them; see --list."
        )


def selected(options: argparse.Namespace) -> list[tuple[int, Group, Sequence[str]]]:
    """Returns the parts, groups and frameworks that the options select."""
    suite = SUITES[options.suite]
    found = []
    for number in options.part:
        part = suite.parts[number - 1]
        frameworks = [
            name
            for name in options.frameworks or part.frameworks
            if name not in TORCH or torch_version()
        ]
        for group in itertools.starmap(suite.group, part.groups):
            if group.model not in (options.models or [group.model]):
                continue
            if group.precision not in (options.precisions or [group.precision]):
                continue
            group = dataclasses.replace(
                group,
                batch_size=options.batch or group.batch_size,
                image_size=options.image_size or group.image_size,
            )
            found.append((number, group, frameworks))
    return found


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures group after group, writing what there is after each."""
    chosen = selected(options)
    facts = {
        "suite": options.suite,
        "parts": options.part,
        "float32_products": "TensorFloat-32 where the device has it",
        "torch": torch_version(),
    }
    results: list[dict[str, Any]] = []
    started = time.monotonic()
    steps = Steps(len(chosen))
    for _, group, frameworks in chosen:
        elapsed = time.monotonic() - started
        steps.begin(str(group))
        if elapsed > options.budget_seconds:
            error = f"Not measured: {options.budget_seconds:.0f} s were over."
            fields = dataclasses.asdict(group) | {"error": error}
            found = [{"framework": name, **fields} for name in frameworks]
        else:
            found = measure(
                group,
                frameworks,
                repeats=options.repeats,
                max_seconds=options.max_seconds,
                say=lambda text: say(f"    {text}"),
            )
        for result in found:
            say(f"    {result['framework']}: {outcome(result)}")
        results += found
        if options.json:
            write_report(options.json, results, **facts)
        if options.csv:
            write_csv(options.csv, results)
    return results


def outcome(result: dict[str, Any]) -> str:
    if "error" in result:
        return result["error"]
    return (
        f"{1e3 * result['step_seconds']:.1f} ms, "
        f"{result['images_per_second']:.1f} images/s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    # JAX and torch share the device; JAX would take three quarters of it at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options = parse(arguments)
    if options.list:
        for part, group, frameworks in selected(options):
            print(f"part {part}: {group}: {', '.join(frameworks)}")
        return 0
    if options.suite == "gpu" and jax.default_backend() == "cpu":
        say("--suite gpu: JAX finds only a CPU here; expected an accelerator.")
        return 2
    keep_memory()  # for every framework: it is the process's
    results = run(options)
    print_tables([training_table(results)], as_markdown=options.markdown)
    return int(all("error" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
