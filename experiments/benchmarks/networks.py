"""Times one forward and backward pass of whole networks, in train mode.

    python experiments/benchmarks/networks.py

Three implementations of the same network are interleaved and their medians compared:
on our kernels, on their twins under JAX's autodiff (same layers, same flags, same
process), and in PyTorch with channels-last tensors where torch can be imported.

Needs jax, flax, optax and NumPy only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from output import print_tables, table_of, write_report

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax.analysis.timing import time_interleaved
from cnn_jax.report.table import Column, Table


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to be measured.

    Attributes:
      batch: The shape of one batch of images.
      num_classes: The number of logits.
      build: Makes the module, given its activation by name.
    """

    batch: tuple[int, int, int, int]
    num_classes: int
    build: Callable[..., nn.Module]


def _resnet20(kernels) -> nn.Module:
    return cnn_jax.create_model("resnet20", activation=kernels.relu)


def _efficientnet_b0(kernels) -> nn.Module:
    return cnn_jax.create_model("efficientnet_b0", activation=kernels.silu)


NETWORKS = {
    "resnet20": Network((128, 32, 32, 3), 10, _resnet20),
    "efficientnet_b0": Network((8, 224, 224, 3), 1000, _efficientnet_b0),
}


@contextlib.contextmanager
def kernels_replaced_by_twins() -> Iterator[None]:
    """Lets the layers, which look kernels up when they are called, find the twins."""
    with contextlib.ExitStack() as stack:
        for name in K.autodiff.__all__:
            twin = getattr(K.autodiff, name)
            stack.enter_context(mock.patch.object(K, name, twin))
        yield


def step_fn(module: nn.Module) -> Callable[..., Any]:
    """Returns the loss, its gradients and the new running statistics of a batch."""

    def loss_fn(params, batch_stats, images, labels, key):
        logits, updates = module.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return jnp.mean(K.softmax_cross_entropy(logits, labels)), updates

    return jax.value_and_grad(loss_fn, has_aux=True)


def compiled_steps(network: Network, dtype) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Compiles the step on our kernels and on the twins.

    Returns:
      Implementation -> compiled step, and the arguments of all of them.
    """
    key = jax.random.key(0)
    images = jax.random.normal(key, network.batch, dtype)
    labels = jax.random.randint(key, network.batch[:1], 0, network.num_classes)
    module = network.build(K).clone(dtype=dtype)
    variables = jax.jit(functools.partial(module.init, train=False))(key, images)
    arguments = (variables["params"], variables["batch_stats"], images, labels, key)
    compiled = {"ours": jax.jit(step_fn(module)).lower(*arguments).compile()}
    with kernels_replaced_by_twins():
        module = network.build(K.autodiff).clone(dtype=dtype)
        step = jax.jit(step_fn(module))
        compiled["autodiff"] = step.lower(*arguments).compile()
    return compiled, arguments


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns one record: the times of every implementation of a network."""
    network = NETWORKS[name]
    compiled, arguments = compiled_steps(network, jnp.dtype(options.dtype))
    calls = {
        label: functools.partial(step, *arguments) for label, step in compiled.items()
    }
    (loss, _), gradients = calls["ours"]()
    (twin_loss, _), twin_gradients = calls["autodiff"]()
    if not options.no_torch:
        with contextlib.suppress(ImportError):
            import torch_networks

            calls["torch"] = torch_networks.step(name, *arguments[2:4])
    timings = time_interleaved(calls, repeats=options.repeats)
    record: dict[str, Any] = {
        "network": name,
        "batch": list(network.batch),
        "rounds": options.repeats,
        "loss_difference": abs(float(loss - twin_loss)),
        "gradient_difference": _distance(gradients, twin_gradients),
    }
    for label, timing in timings.items():
        record[f"{label}_seconds"] = timing.median
        record[f"{label}_quartiles"] = timing.quartiles
    for label, step in compiled.items():
        analysis = step.memory_analysis()
        record[f"{label}_temporaries"] = analysis and analysis.temp_size_in_bytes
    record["ratio"] = record["autodiff_seconds"] / record["ours_seconds"]
    return record


def _distance(tree, reference) -> float:
    """The distance of two trees, relative to the reference's length."""
    squares = [
        (jnp.sum(jnp.square(a - b)), jnp.sum(jnp.square(b)))
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    ]
    return float((sum(d for d, _ in squares) / sum(r for _, r in squares)) ** 0.5)


_MS = {"unit": "ms", "format_spec": ".0f", "scale": 1e3}
COLUMNS = (
    Column("network", "network"),
    Column("ours_seconds", "ours", **_MS),
    Column("autodiff_seconds", "autodiff", **_MS),
    Column("torch_seconds", "PyTorch", **_MS),
    Column("ratio", "autodiff / ours", format_spec=".2f"),
    Column("ours_temporaries", "temporaries", "MiB", ".0f", 2**-20),
    Column("autodiff_temporaries", "of autodiff", "MiB", ".0f", 2**-20),
    Column("gradient_difference", "difference of the gradients", format_spec=".0e"),
)


def network_table(records: Sequence[dict]) -> Table:
    return table_of("Forward and backward in train mode", COLUMNS, records)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("networks", nargs="*", default=[], help=f"of {', '.join(NETWORKS)}; or all")
    add("--dtype", default="float32", help="the dtype of images and computation")
    add("--repeats", type=int, default=9, help="rounds")
    add("--no-torch", action="store_true", help="leave PyTorch out")
    add("--json", type=pathlib.Path, help="write the records to this file")
    add("--markdown", action="store_true", help="print the table for a README")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.networks) - set(NETWORKS))
    if unknown:
        parser.error(f"got networks {unknown}, expected some of {list(NETWORKS)}")
    records = []
    for name in options.networks or NETWORKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        records.append(measure(name, options))
    print_tables([network_table(records)], as_markdown=options.markdown)
    if options.json:
        write_report(options.json, records, dtype=options.dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
