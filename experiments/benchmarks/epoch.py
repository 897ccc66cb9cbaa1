"""Compares an epoch of the training loop with as many bare steps.

    python experiments/benchmarks/epoch.py --json epoch.json

`cnn_jax.fit` trains a network for some epochs on noise of CIFAR-10's
size that is on the device, with crops and flips and its usual logging. After each
epoch, in the same process, as many steps of the same compiled program are called one
after the other, with one wait at the end. An epoch's wall time runs from the end of the
previous one to the fetching of its last metrics, evaluation left out, by a clock
outside of the loop; it is compared with the mean of the bare steps before and after it,
so that a machine that drifts slows both. The median of the ratios is the result.

Seven rounds of 40 steps take about ten minutes on two CPU cores
(`experiments/results/epoch_cpu_jax_0.10.json`); a line for each round says how many
there are.

Unlike other benchmarks this one needs what the loop needs: everything `cnn_jax` does.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from output import print_tables, write_report

import cnn_jax
from cnn_jax import data, sharding
from cnn_jax.messages import warn
from cnn_jax.report.table import Column, Table, table_of
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.build import build_run, compile_run
from cnn_jax.training.run.fit import fit


class Laps:
    """A hook of `fit` that times epochs, and bare steps between them.

    Args:
      bare_seconds: Takes an epoch's bare steps and returns what they took, in seconds.
      num_steps: The number of an epoch's steps.
      say: Called with each epoch's seconds and the bare steps' after it.
      clock: Returns the time in seconds.

    Attributes:
      epochs: Wall seconds of each epoch behind the first, which warms up.
      bare: Seconds of the bare steps before the first of them and after each.
    """

    def __init__(
        self,
        bare_seconds: Callable[[], float],
        num_steps: int,
        say: Callable[[float, float], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._bare_seconds, self._num_steps = bare_seconds, num_steps
        self._say, self._clock = say, clock
        self._started: float | None = None
        self._ended = 0.0
        self.epochs: list[float] = []
        self.bare: list[float] = []

    def __call__(self, entry: dict[str, Any], state: Any) -> None:
        """Takes one of the loop's entries; the last step's ends an epoch."""
        if entry["event"] == "step" and entry["step"] % self._num_steps == 0:
            self._ended = self._clock()
        if entry["event"] != "epoch":
            return
        if self._started is not None:
            self.epochs.append(self._ended - self._started)
        # What evaluation left running is not the bare steps'.
        jax.block_until_ready(state)
        self.bare.append(self._bare_seconds())
        if self.epochs:
            self._say(self.epochs[-1], self.bare[-1])
        self._started = self._clock()

    def ratios(self) -> list[float]:
        """Returns each epoch's seconds over those of the bare steps around it."""
        around = zip(self.bare, self.bare[1:], strict=False)
        return [
            epoch / statistics.mean(pair)
            for epoch, pair in zip(self.epochs, around, strict=True)
        ]


def noise(split: str, count: int, shape: tuple[int, int, int]) -> data.Dataset:
    random = np.random.default_rng(0)
    return data.Dataset(
        "noise",
        split,
        random.integers(0, 256, (count, *shape), np.uint8),
        random.integers(0, 10, count, np.int32),
        tuple(map(str, range(10))),
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains for one epoch more than are counted, and returns the result."""
    shape = cnn_jax.model_info(options.model).input_shape
    count = options.steps * options.batch
    splits = {
        "train": noise("train", count, shape),
        "test": noise("test", options.batch, shape),
    }
    # The recipe of experiments/cifar10_resnet20.py, at a rate that noise stands.
    config = TrainConfig(
        model=options.model,
        epochs=options.rounds + 1,
        batch_size=options.batch,
        dtype=options.dtype,
        learning_rate=1e-3,
        weight_decay=5e-4,
        label_smoothing=0.1,
        crop_padding=4,
        flip=True,
    )
    config.validate()
    model = cnn_jax.create_model(options.model, num_classes=10, dtype=options.dtype)
    mesh = sharding.make_mesh(specification=config.mesh)
    warn("compiling ...")
    parts = build_run(model, config, splits, mesh)
    compiled = compile_run(parts)

    def bare_seconds() -> float:
        carry = compiled.start(parts.keys.parameters, parts.initial)
        inputs = parts.feed.inputs(0)
        jax.block_until_ready((carry, inputs))
        started = time.perf_counter()
        for _ in range(options.steps):
            carry = compiled.step(carry, inputs, parts.keys.steps)
        jax.block_until_ready(carry)
        return time.perf_counter() - started

    def say(epoch: float, bare: float) -> None:
        text = f"[{len(laps.epochs)}/{options.rounds}] epoch {epoch:.2f} s, bare "
        warn(f"{text}steps {bare:.2f} s")

    laps = Laps(bare_seconds, options.steps, say)
    fit(model, config=config, **splits, callbacks=[laps], mesh=mesh, compiled=compiled)
    ratios = laps.ratios()
    return {
        "model": options.model,
        "dtype": options.dtype,
        "batch_size": options.batch,
        "steps": options.steps,
        "epoch_seconds": statistics.median(laps.epochs),
        "bare_seconds": statistics.median(laps.bare),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "every_epoch_seconds": laps.epochs,
        "every_bare_seconds": laps.bare,
    }


COLUMNS = (
    Column("model", "model"),
    Column("steps", "steps", format_spec="d"),
    Column("batch_size", "batch", format_spec="d"),
    Column("epoch_seconds", "epoch", "s", ".2f"),
    Column("bare_seconds", "bare steps", "s", ".2f"),
    Column("ratio", "epoch / bare steps", format_spec=".3f"),
    Column("lowest", "lowest", format_spec=".3f"),
    Column("highest", "highest", format_spec=".3f"),
)


def epoch_table(result: dict[str, Any]) -> Table:
    return table_of("An epoch of the loop and its bare steps", COLUMNS, [result])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="resnet20", help="one of `cnn-jax models`")
    add("--dtype", default="float32", help="of images and computation")
    add("--steps", type=int, default=40, help="steps of an epoch")
    add("--batch", type=int, default=128, help="images a step")
    add("--rounds", type=int, default=7, help="epochs that count")
    add("--at-most", type=float, help="exit with 1 if the ratio is more")
    add("--json", type=pathlib.Path, help="write the result to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    options = parser.parse_args(arguments)
    for name in ("steps", "batch", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, expected 1 or more.")
    if options.model not in cnn_jax.list_models():
        parser.error(
            f"--model: got {options.model!r}, expected one of `cnn-jax models`."
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        result = measure(options)
    except ValueError as error:
        warn(str(error))
        return 2
    print_tables([epoch_table(result)], as_markdown=options.markdown)
    if options.json:
        write_report(options.json, [result])
    exceeds = options.at_most is not None and result["ratio"] > options.at_most
    return int(exceeds)


if __name__ == "__main__":
    sys.exit(main())
