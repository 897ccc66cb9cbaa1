"""The cost of saving: the time it blocks training, and its time in the background.

    python experiments/benchmarks/checkpoints.py --model resnet20 --json cost.json

The share is of a run that saves once a minute. The last column is the most that it can
be: as if training blocked during the background work. The 21 saves of a ResNet-20
take about half a minute on two CPU cores (the medians in
`experiments/results/checkpoints_cpu.json`).
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from output import Steps, print_tables, write_report

import cnn_jax
from cnn_jax.checkpoint import Checkpointer
from cnn_jax.report.table import Column, table_of
from cnn_jax.training.step.state import TrainState

COLUMNS = (
    Column("model", "model"),
    Column("bytes", "state", unit="MB", format_spec=".1f", scale=1e-6),
    Column("blocking", "blocks", unit="ms", format_spec=".1f", scale=1e3),
    Column("background", "then works", unit="ms", format_spec=".1f", scale=1e3),
    Column("restore", "restore", unit="ms", format_spec=".1f", scale=1e3),
    Column("share", "blocks", unit="%", format_spec=".2f", scale=100),
    Column("most", "at most", unit="%", format_spec=".2f", scale=100),
)


def measure(name: str, image_size: int, saves: int) -> dict[str, Any]:
    """Returns a result: medians in seconds over the saves behind the first."""
    state = TrainState.create(
        cnn_jax.create_model(name),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        jax.random.key(0),
        jnp.zeros((1, image_size, image_size, 3)),
    )
    with tempfile.TemporaryDirectory() as directory:
        times = list(_times(state, directory, saves + 1))[1:]
    blocking, background, restore = map(statistics.median, zip(*times, strict=True))
    return {
        "model": name,
        "saves": saves,
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "blocking": blocking,
        "background": background,
        "restore": restore,
        "share": blocking / 60,
        "most": (blocking + background) / 60,
    }


def _times(state: TrainState, directory: str, saves: int) -> Iterator[Sequence[float]]:
    with Checkpointer(directory) as checkpointer:
        for step in range(saves):
            # Other arrays each time, as after a step: none is cached on the host.
            state = jax.block_until_ready(jax.tree.map(lambda leaf: leaf + 1, state))
            start = time.perf_counter()
            checkpointer.save(step, state, {})
            saved = time.perf_counter()
            checkpointer.wait()
            written = time.perf_counter()
            checkpointer.restore(state)
            yield saved - start, written - saved, time.perf_counter() - written


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", nargs="+", default=["resnet20"])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the results")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    results, steps = [], Steps(len(options.model))
    for name in options.model:
        steps.begin(f"{name}, {options.saves} saves")
        results.append(measure(name, options.image_size, options.saves))
    if options.json:
        write_report(options.json, results)
    table = table_of("Saving a checkpoint", COLUMNS, results)
    print_tables([table], as_markdown=options.markdown)


if __name__ == "__main__":
    main()
