"""Times the start-up of every user of the models: the import, and the tracing.

    python experiments/benchmarks/tracing.py

`jax.eval_shape` of each model's `init`, at the image it was sized for, in one process
and once each, since a second time JAX remembers; and the import of `cnn_jax.models` in
fresh processes, by its median.

All models take 46 s on two CPU cores (`experiments/results/tracing_cpu_jax_0.10.json`).

Needs jax, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from output import Steps, print_tables, write_report

import cnn_jax
from cnn_jax.report.table import Column, Table, table_of

IMPORT = (
    "import time; start = time.perf_counter(); import cnn_jax.models; "
    "print(time.perf_counter() - start)"
)


def import_seconds(repeats: int) -> list[float]:
    """Returns the seconds that `import cnn_jax.models` takes in fresh processes."""
    command = [sys.executable, "-c", IMPORT]
    return [
        float(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(repeats)
    ]


def trace_seconds(name: str) -> float:
    """Returns the seconds that `jax.eval_shape` of a model's `init` takes."""
    model = cnn_jax.create_model(name)
    x = jax.ShapeDtypeStruct((1, *cnn_jax.model_info(name).input_shape), jnp.float32)
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    start = time.perf_counter()
    jax.eval_shape(functools.partial(model.init, train=False), key, x)
    return time.perf_counter() - start


def table(results: Sequence[dict[str, Any]]) -> Table:
    columns = (Column("model", "model"), Column("seconds", "eval_shape", "s", ".2f"))
    return table_of("Tracing the models", columns, results)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("pattern", nargs="?", default="*", help="which models")
    add("--repeats", type=int, default=5, help="imports")
    add("--at-most-import", type=float, help="fail if the median is more, in seconds")
    add("--at-most-all", type=float, help="fail if all models together take more")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    options = parser.parse_args(arguments)
    names = cnn_jax.list_models(options.pattern)
    if not names:
        parser.error(f"got the pattern {options.pattern!r}, which fits no model")

    imports = import_seconds(options.repeats)
    results = []
    steps = Steps(len(names))
    for name in names:
        steps.begin(name)
        results.append({"model": name, "seconds": trace_seconds(name)})
    total = sum(result["seconds"] for result in results)
    print_tables([table(results)], as_markdown=options.markdown)
    median = statistics.median(imports)
    print(f"import cnn_jax.models: {median:.2f} s, median of {options.repeats}")
    print(f"eval_shape of {len(names)} models: {total:.1f} s")
    if options.json:
        write_report(options.json, results, import_seconds=imports, total_seconds=total)
    limits = ((median, options.at_most_import), (total, options.at_most_all))
    return int(any(limit is not None and value > limit for value, limit in limits))


if __name__ == "__main__":
    sys.exit(main())
