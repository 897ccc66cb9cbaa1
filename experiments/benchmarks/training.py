"""Times training steps of whole networks: ours, stock Flax, PyTorch.

    python experiments/benchmarks/training.py --suite cpu --part 1
    python experiments/benchmarks/training.py --suite gpu --part 1 --json part1.json

A step is the one that the training loop takes (`cnn_jax.training.train_step`, SGD with
momentum, jitted, its state donated) on one batch that lies on the device. Beside it,
interleaved in one process: the same networks on stock `flax.linen` layers under JAX's
autodiff (see `stock_flax.py`), and, where torch can be imported, PyTorch with
channels-last tensors, autocast and, as `torch_compile`, `torch.compile`. In float16 the
loss is scaled in all of them.

A part of a suite is what one run measures. A network that does not compile or does not
fit into memory is recorded with the reason, and the run goes on. The CSV file has the
columns of timm's benchmark for training: images per second, milliseconds of a step,
millions of parameters; and behind them our own.

Needs jax, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import gc
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from output import print_tables, table_of, write_report
from stock_flax import stock_flax, with_stock_activation
from training_suite import FRAMEWORKS, PRECISIONS, SUITES, Group

import cnn_jax
from cnn_jax.analysis.timing import Timing, time_interleaved
from cnn_jax.report.table import Column, Table
from cnn_jax.training import TrainConfig, TrainState, state_options, train_step

ROUND_SECONDS = 0.3
"""A round takes as many steps as fill this time, and then waits once."""

MOST_STEPS_PER_ROUND = 100

MOST_WAITING = 3
"""How many times the time of a step one may take that is waited for by itself. More
would mean that rounds end before the work does."""


class Trainer:
    """Our training step on one batch, compiled ahead of time.

    Args:
      model: The module; `state` is of it, or of a module with the same variables.
      state: Where training starts.
      batch: `{"image", "label"}` on the device.

    Attributes:
      compile_seconds: What tracing and compiling took.
      temporary_bytes: What a step needs beside its arguments and results, as planned
        by the compiler; None where it does not tell.
      num_parameters: How many the network has.
    """

    def __init__(self, model: nn.Module, state: TrainState, batch: dict[str, Any]):
        state = state.replace(apply_fn=model.apply)
        # Steps consume the state, and others start from it as well.
        self._state, self._batch = jax.tree.map(jnp.copy, state), batch
        self._key = jax.random.key(1)
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        started = time.perf_counter()
        # A function of its own: jit would remember what it traced for another.
        step = jax.jit(functools.partial(train_step), donate_argnums=0)
        self._step = step.lower(self._state, batch, self._key).compile()
        self.compile_seconds = time.perf_counter() - started
        plan = self._step.memory_analysis()
        self.temporary_bytes = plan and plan.temp_size_in_bytes

    def advance(self, steps: int) -> float:
        """Takes so many steps, waits for the device, and returns the last loss."""
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch, self._key)
        jax.block_until_ready((self._state, metrics))
        return float(metrics["loss"])


def make_trainer(framework: str, group: Group, start: TrainState, batch: dict) -> Any:
    """Returns what takes a framework's steps, compiled where that can be done."""
    if framework in ("torch", "torch_compile"):
        from torch_networks import Trainer as TorchTrainer

        return TorchTrainer(
            group.model,
            batch["image"],
            batch["label"],
            compiled=framework == "torch_compile",
        )
    model = make_model(group)
    if framework == "ours":
        return Trainer(model, start, batch)
    with stock_flax():
        return Trainer(with_stock_activation(model), start, batch)


def make_model(group: Group) -> nn.Module:
    return cnn_jax.create_model(group.model, dtype=jnp.dtype(group.precision))


def draw(group: Group) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns a state to start from and a batch of noise, on the device."""
    info = cnn_jax.model_info(group.model)
    key = jax.random.key(0)
    shape = (group.batch_size, *(group.image_size,) * 2, info.input_shape[2])
    images = jax.random.normal(key, shape, jnp.dtype(group.precision))
    labels = jax.random.randint(key, shape[:1], 0, info.num_classes)
    create = functools.partial(
        TrainState.create,
        make_model(group),
        optax.sgd(1e-3, momentum=0.9),
        **state_options(TrainConfig(dtype=group.precision)),
    )
    # Run once, so compiled in a hurry, as the loop does.
    hurry = {"xla_backend_optimization_level": 0}
    on_cpu = jax.default_backend() == "cpu"
    start = jax.jit(create, compiler_options=hurry if on_cpu else None)(key, images[:1])
    return start, {"image": images, "label": labels}


class Runner:
    """A framework's trainer that fails at most once, and then says why.

    Attributes:
      record: What is known so far; `error` if it failed.
      steps: The steps of a round.
    """

    def __init__(self, framework: str, group: Group):
        self.framework = framework
        self.record = {"framework": framework, **dataclasses.asdict(group)}
        self.steps = 1
        self._trainer: Any = None

    @property
    def failed(self) -> bool:
        return "error" in self.record

    def prepare(self, make: Callable[[], Any]) -> None:
        """Makes the trainer, takes the first steps, and decides how many to a round."""

        def work():
            self._trainer = make()
            started = time.perf_counter()
            loss = self._trainer.advance(1)
            first_seconds = time.perf_counter() - started
            if self.framework == "torch_compile":
                self._trainer.compile_seconds = first_seconds
            if self.framework.startswith("torch"):
                self._trainer.forget_peak()
            started = time.perf_counter()
            self._trainer.advance(1)
            seconds = time.perf_counter() - started
            self.steps = min(
                max(1, math.ceil(ROUND_SECONDS / seconds)), MOST_STEPS_PER_ROUND
            )
            self.record |= {
                "first_loss": loss,
                "compile_seconds": getattr(self._trainer, "compile_seconds", None),
                "temporary_bytes": self._trainer.temporary_bytes,
                "parameters": self._trainer.num_parameters,
            }

        self._try(work)

    @property
    def functions(self) -> dict[str, Callable[[], None]]:
        """What to time: a round, and for the check a step that is waited for.

        A round of one step is waited for as it is.
        """
        if self.failed:
            return {}
        named = {self.framework: functools.partial(self._advance, self.steps)}
        if self.steps > 1:
            named[self._waited] = functools.partial(self._advance, 1)
        return named

    def finish(self, timings: Mapping[str, Timing]) -> None:
        """Records the rounds' seconds, if they stand the check, and frees memory.

        Args:
          timings: Of each of `functions`.
        """
        self._trainer = None
        if self.failed:
            return
        timing = timings[self.framework]
        step_seconds = timing.median / self.steps
        self.record |= {
            "step_seconds": step_seconds,
            "step_quartiles": [quartile / self.steps for quartile in timing.quartiles],
            "rounds": len(timing.seconds),
            "steps_per_round": self.steps,
            "images_per_second": self.record["batch_size"] / step_seconds,
        }
        if self._waited in timings:
            waited = self.record["waited_step_seconds"] = timings[self._waited].median
            if waited > MOST_WAITING * step_seconds:
                self.record["error"] = (
                    f"Self-check: a step takes {step_seconds:.2e} s in rounds of "
                    f"{self.steps}, but {waited:.2e} s when it is waited for."
                )

    @property
    def _waited(self) -> str:
        return f"{self.framework}, waited for"

    def _advance(self, steps: int) -> None:
        self._try(lambda: self._trainer.advance(steps))

    def _try(self, work: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            work()
        # Whatever a compiler or an allocator raises, the others can still be measured.
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.record["error"] = f"{type(error).__name__}: {lines[0][:300]}"
            self._trainer = None


def measure(
    group: Group, frameworks: Sequence[str], *, repeats: int, max_seconds: float
) -> list[dict[str, Any]]:
    """Returns one record for each framework, measured in interleaved rounds."""
    start, batch = draw(group)
    runners = [Runner(framework, group) for framework in frameworks]
    for runner in runners:
        make = functools.partial(make_trainer, runner.framework, group, start, batch)
        runner.prepare(make)
        seconds = runner.record.get("compile_seconds")
        outcome = runner.record.get("error") or (
            "ready" if seconds is None else f"compiled in {seconds:.1f} s"
        )
        say(f"    {runner.framework}: {outcome}")
    functions = {
        name: function
        for runner in runners
        for name, function in runner.functions.items()
    }
    timings = {}
    if functions:
        timings = time_interleaved(
            functions, repeats=repeats, min_seconds=0, max_seconds=max_seconds
        )
    for runner in runners:
        runner.finish(timings)
    free_memory()
    records = [runner.record for runner in runners]
    compare(records)
    return records


def compare(records: Sequence[dict[str, Any]]) -> None:
    """Adds how many times as fast as stock Flax each of a group's records is."""
    seconds = {r["framework"]: r.get("step_seconds") for r in records}
    for record in records:
        if seconds.get("stock") and record.get("step_seconds"):
            record["speed_up"] = seconds["stock"] / record["step_seconds"]


def free_memory() -> None:
    gc.collect()
    if "torch_networks" in sys.modules:
        sys.modules["torch_networks"].free_memory()


COLUMNS = (
    Column("model", "model"),
    Column("precision", "precision"),
    Column("framework", "framework"),
    Column("batch_size", "batch", format_spec="d"),
    Column("images_per_second", "images/s", format_spec=",.1f"),
    Column("step_seconds", "step", "ms", ".1f", 1e3),
    Column("low", "quartiles", "ms", ".1f", 1e3),
    Column("high", "and", "ms", ".1f", 1e3),
    Column("speed_up", "stock / this", format_spec=".2f"),
    Column("temporary_bytes", "temporaries", "MiB", ",.0f", 2**-20),
    Column("compile_seconds", "compiling", "s", ".1f"),
    Column("error", "failed"),
)


def training_table(records: Sequence[dict[str, Any]]) -> Table:
    rows = [
        dict(
            record, **dict(zip(("low", "high"), record["step_quartiles"], strict=True))
        )
        if "step_quartiles" in record
        else record
        for record in records
    ]
    return table_of("Training steps", COLUMNS, rows)


def csv_row(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record as timm's benchmark of training has it, and our own columns."""
    if "step_seconds" not in record:
        measured = dict.fromkeys(("train_samples_per_sec", "train_step_time"))
    else:
        measured = {
            "train_samples_per_sec": round(record["images_per_second"], 2),
            "train_step_time": round(1e3 * record["step_seconds"], 3),
        }
    parameters = record.get("parameters")
    return {
        "model": record["model"],
        **measured,
        "train_batch_size": record["batch_size"],
        "train_img_size": record["image_size"],
        "param_count": None if parameters is None else round(parameters / 1e6, 2),
        "framework": record["framework"],
        "precision": record["precision"],
        **{
            name: record.get(name)
            for name in ("compile_seconds", "temporary_bytes", "speed_up", "error")
        },
    }


def write_csv(path: pathlib.Path, records: Sequence[dict[str, Any]]) -> None:
    rows = [csv_row(record) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def can_import_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


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
    add("--json", type=pathlib.Path, help="write the records to this file")
    add("--csv", type=pathlib.Path, help="write timm's columns to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    add("--list", action="store_true", help="list the suite's parts and stop")
    options = parser.parse_args(arguments)
    if options.suite is None:
        options.suite = "cpu" if jax.default_backend() == "cpu" else "gpu"
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program for arguments that cannot be meant; fills in the suite's."""
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
    asked = options.frameworks
    options.frameworks = list(asked or suite.frameworks)
    if not can_import_torch():
        of_torch = [name for name in options.frameworks if name.startswith("torch")]
        if asked and of_torch:
            parser.error(f"--frameworks: got {of_torch}, but torch is not installed.")
        options.frameworks = [f for f in options.frameworks if f not in of_torch]
    if not selected(options):
        parser.error(
            f"--part {options.part} --models {options.models} --precisions "
            f"{options.precisions}: nothing is in all of them; see --list."
        )


def selected(options: argparse.Namespace) -> list[Group]:
    """Returns the groups that the options ask for."""
    return [
        dataclasses.replace(
            group,
            batch_size=options.batch or group.batch_size,
            image_size=options.image_size or group.image_size,
        )
        for group in SUITES[options.suite].groups(options.part)
        if group.model in (options.models or [group.model])
        and group.precision in (options.precisions or [group.precision])
    ]


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures group after group, writing what there is after each."""
    groups = selected(options)
    facts = {
        "suite": options.suite,
        "parts": options.part,
        "float32_products": "TensorFloat-32 where the device has it",
        "torch": importlib.metadata.version("torch") if can_import_torch() else None,
    }
    records: list[dict[str, Any]] = []
    started = time.monotonic()
    for number, group in enumerate(groups, start=1):
        elapsed = time.monotonic() - started
        say(f"[{number}/{len(groups)}] {group} ({elapsed:.0f} s so far)")
        if elapsed > options.budget_seconds:
            error = f"Not measured: {options.budget_seconds:.0f} s were over."
            fields = dataclasses.asdict(group) | {"error": error}
            found = [{"framework": name, **fields} for name in options.frameworks]
        else:
            found = measure(
                group,
                options.frameworks,
                repeats=options.repeats,
                max_seconds=options.max_seconds,
            )
        for record in found:
            say(f"    {record['framework']}: {outcome(record)}")
        records += found
        if options.json:
            write_report(options.json, records, **facts)
        if options.csv:
            write_csv(options.csv, records)
    return records


def outcome(record: dict[str, Any]) -> str:
    if "error" in record:
        return record["error"]
    return (
        f"{1e3 * record['step_seconds']:.1f} ms, "
        f"{record['images_per_second']:.1f} images/s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    # JAX and torch share the device; JAX would take three quarters of it at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options = parse(arguments)
    if options.list:
        for number in options.part:
            groups = SUITES[options.suite].groups([number])
            print(f"part {number}: " + "; ".join(map(str, groups)))
        return 0
    if options.suite == "gpu" and jax.default_backend() == "cpu":
        say("--suite gpu: JAX finds only a CPU here; expected an accelerator.")
        return 2
    records = run(options)
    print_tables([training_table(records)], as_markdown=options.markdown)
    return int(all("error" in record for record in records))


if __name__ == "__main__":
    sys.exit(main())
