"""Compares training steps whose process keeps freed memory with steps that map it anew.

    python experiments/benchmarks/memory.py --json memory.json

Two processes train the same networks on a CPU, one as `cnn_jax.allocator` has it, the
other with `CNN_JAX_KEEP_MEMORY=0`. They take turns, so that a machine that drifts slows
both: a round is a few steps of one and then of the other, and the ratio of their times
is taken within the round. Beside it stand the pages that a step gets from the system,
and the process's resident memory after 20 steps, after all of them, and after as many
runs of `cnn_jax.fit` in the same process as `--runs` says.

A line for each round says how many there are, and about the time left.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from output import Steps, print_tables, write_report

import cnn_jax
from cnn_jax.allocator import VARIABLE, keep_memory
from cnn_jax.report.table import Column, Table, table_of

WARM_UP = 20
"""Steps before anything is compared."""

COLUMNS = (
    Column("model", "Network"),
    Column("memory", "Freed memory"),
    Column("milliseconds", "Step", "ms", ".0f"),
    Column("ratio", "Of the other's time", "", ".2f"),
    Column("pages", "Pages", "a step", ",.0f"),
    Column("after_warm_up", f"After {WARM_UP} steps", "MiB", ",.0f"),
    Column("after_steps", "After all steps", "MiB", ",.0f"),
    Column("after_runs", "After all runs", "MiB", ",.0f"),
)


class Trainer:
    """A process that takes steps when it is told to.

    Args:
      keeps: Whether it keeps the memory that it frees.
      options: The command's.
      model: The network.
    """

    def __init__(self, keeps: bool, options: argparse.Namespace, model: str):
        command = [sys.executable, __file__, "--child", "--models", model]
        command += ["--batch", str(options.batch), "--dtype", options.dtype]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {VARIABLE: str(int(keeps)), "JAX_PLATFORMS": "cpu"},
        )

    def tell(self, what: str, number: int) -> dict[str, Any]:
        """Has it take `steps` or `runs`, and returns what they took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, number, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._process.kill()
        self._process.communicate()


def take_orders(options: argparse.Namespace) -> None:
    """Carries out what the other process says, line by line."""
    import jax

    keeps = keep_memory()
    (model,) = options.models
    orders = {"steps": StepTaker(model, options), "runs": RunMaker(model, options)}
    for line in sys.stdin:
        what, number = line.split()
        before, started = _page_faults(), time.perf_counter()
        jax.block_until_ready(orders[what](int(number)))
        seconds = time.perf_counter() - started
        pages = _page_faults() - before
        found = {
            "seconds": seconds,
            "pages": pages,
            "mebibytes": _resident_mebibytes(),
            "keeps": keeps,
        }
        print(json.dumps(found), flush=True)


class StepTaker:
    """Takes training steps on one batch of noise."""

    def __init__(self, name: str, options: argparse.Namespace):
        import functools

        import jax
        import jax.numpy as jnp
        import optax

        from cnn_jax.training import TrainState, train_step

        info = cnn_jax.model_info(name)
        model = cnn_jax.create_model(name, dtype=options.dtype)
        shape = (options.batch, *info.input_shape)
        images = jax.random.normal(jax.random.key(0), shape, options.dtype)
        labels = jnp.zeros(options.batch, jnp.int32)
        self._batch = {"image": images, "label": labels}
        create = functools.partial(
            TrainState.create, model, optax.sgd(1e-3, momentum=0.9)
        )
        self._state = jax.jit(create)(jax.random.key(1), images)
        self._step = jax.jit(train_step, donate_argnums=0)
        self._key = jax.random.key(2)

    def __call__(self, number: int) -> Any:
        for _ in range(number):
            self._state, metrics = self._step(self._state, self._batch, self._key)
        return self._state, metrics


class RunMaker:
    """Trains anew with another seed, each time for a few steps of noise."""

    def __init__(self, name: str, options: argparse.Namespace):
        self._name, self._options, self._seed = name, options, 0

    def __call__(self, number: int) -> None:
        import numpy as np

        from cnn_jax.training import TrainConfig

        shape = cnn_jax.model_info(self._name).input_shape
        random = np.random.default_rng(0)
        count = 4 * self._options.batch
        images = random.integers(0, 256, (count, *shape), np.uint8)
        labels = random.integers(0, 10, count, np.int32)
        dtype = self._options.dtype
        model = cnn_jax.create_model(self._name, num_classes=10, dtype=dtype)
        for _ in range(number):
            self._seed += 1
            config = TrainConfig(
                model=self._name,
                dtype=dtype,
                epochs=2,
                batch_size=self._options.batch,
                learning_rate=1e-3,
                seed=self._seed,
            )
            cnn_jax.fit(model, (images, labels), config=config, progress=False)


def _page_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _resident_mebibytes() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for the process that keeps memory, and one for the other."""
    rounds = max((options.steps - WARM_UP) // options.round_steps, 1)
    progress = Steps(1 + rounds + bool(options.runs))
    with Trainer(True, options, model) as kept, Trainer(False, options, model) as anew:
        both = (kept, anew)
        progress.begin(f"{model}: compile and warm up")
        first = [each.tell("steps", WARM_UP) for each in both]
        if not first[0]["keeps"]:
            raise SystemExit("memory.py: nothing is kept here; expected glibc.")
        taken = []
        for number in range(rounds):
            progress.begin(f"{model}: round {number + 1}")
            taken.append([each.tell("steps", options.round_steps) for each in both])
        runs: list[dict[str, Any] | None] = [None, None]
        if options.runs:
            progress.begin(f"{model}: {options.runs} runs each")
            runs = [each.tell("runs", options.runs) for each in both]
    rows = []
    for this, other in ((0, 1), (1, 0)):
        own = [each[this] for each in taken]
        ratios = [each[this]["seconds"] / each[other]["seconds"] for each in taken]
        step = statistics.median(each["seconds"] for each in own) / options.round_steps
        pages = statistics.median(each["pages"] for each in own) / options.round_steps
        after_runs = runs[this]
        rows.append(
            {
                "model": model,
                "memory": ("kept", "given back")[this],
                "batch": options.batch,
                "dtype": options.dtype,
                "milliseconds": 1e3 * step,
                "ratio": statistics.median(ratios),
                "pages": pages,
                "after_warm_up": first[this]["mebibytes"],
                "after_steps": own[-1]["mebibytes"],
                "after_runs": after_runs and after_runs["mebibytes"],
                "steps": WARM_UP + rounds * options.round_steps,
                "runs": options.runs,
            }
        )
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["resnet20"], help="networks")
    add("--batch", type=int, default=128, help="images of a batch")
    add("--dtype", default="float32", help="of images and activations")
    add("--steps", type=int, default=500, help="training steps of each process")
    add("--round-steps", type=int, default=20, help="steps of a round")
    add("--runs", type=int, default=20, help="runs of `fit` afterwards")
    add("--at-most", type=float, help="fail if memory grows by more than this factor")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--markdown", action="store_true", help="print the table for a page")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    least = {"steps": WARM_UP + 1, "round_steps": 1, "batch": 1, "runs": 0}
    for name, number in least.items():
        if getattr(options, name) < number:
            option = name.replace("_", "-")
            parser.error(
                f"--{option}: got {getattr(options, name)}, expected {number} or more."
            )
    for model in options.models:
        if model not in cnn_jax.list_models():
            parser.error(
                f"--models: got {model!r}, expected names of `cnn-jax models`."
            )
    return options


def growth(row: dict[str, Any]) -> float:
    """Returns the most memory of a row over that after its first steps."""
    later = [row["after_steps"], row["after_runs"] or 0.0]
    return float(max(later) / row["after_warm_up"])


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.child:
        take_orders(options)
        return 0
    rows = [row for model in options.models for row in measure(model, options)]
    table: Table = table_of("Memory that a step frees", COLUMNS, rows)
    print_tables([table], as_markdown=options.markdown)
    if options.json:
        write_report(options.json, rows)
    exceeds = [row for row in rows if options.at_most and growth(row) > options.at_most]
    return int(bool(exceeds))


if __name__ == "__main__":
    raise SystemExit(main())
