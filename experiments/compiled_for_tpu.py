"""Steps compiled for a TPU beside stock Flax's, as committed records have them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cnn_jax.report import html, table
from cnn_jax.studies import Context, Measurement

RESULTS = pathlib.Path(__file__).with_name("results")
RECORDS = (
    "steps_tpu_v5e_256",
    "steps_tpu_v5e_64",
    "steps_tpu_v5e_efficientnet",
    "steps_tpu_v5e_mobilenet",
)


def _read(context: Context) -> dict[str, Any]:
    """Returns what the compiler estimated, record by record."""
    steps, commands = [], []
    for name in RECORDS:
        record = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        commands.append(record["command"])
        steps += [
            {key: step[key] for key in ("model", "batch")}
            | {"cycles": step["ours_cycles"], "ratio": step["cycles_ratio"]}
            | {"topology": record["topology"], "dtype": record["dtype"]}
            | {"date": record["environment"]["date"][:10], "record": f"{name}.json"}
            for step in record["records"]
            if step["strategy"] == "jit"
        ]
    return {"steps": steps, "commands": commands, "backend": jax.default_backend()}


def _show(found: Mapping[str, Any]) -> Sequence[Any]:
    columns = [
        table.Column("model", "Network"),
        table.Column("batch", "Images a chip", "", ",d"),
        table.Column("cycles", "Cycles of a step", "M", ",.1f", 1e-6),
        table.Column(
            "ratio",
            "Beside stock Flax",
            "",
            ".3f",
            note="Our cycles over those of the same network of Flax's own layers.",
        ),
        table.Column("topology", "Slice"),
        table.Column("dtype", "Dtype"),
        table.Column("date", "Compiled on"),
        table.Column("record", "Record"),
    ]
    return [
        table.Table(
            "Training steps compiled for TPU v5e",
            columns,
            found["steps"],
            ["Estimates of the TPU's compiler, which needs no TPU; nothing ran."],
        ),
        html.Details(
            "The commands of these records", [html.Code("\n".join(found["commands"]))]
        ),
        html.Paragraph(_place(found["backend"])),
        *map(html.Paragraph, _EXPLANATION),
    ]


def _place(backend: str) -> str:
    """Returns where the other panels ran, in a sentence."""
    where = f"The other panels were measured on JAX's backend {backend!r}"
    if backend == "cpu":
        return f"{where}: nothing of this page ran on a GPU or a TPU."
    return f"{where}, but for the compilation cache."


_EXPLANATION = (
    "On a GPU, XLA hands convolutions to cuDNN, NVIDIA's library, and chooses among "
    "its algorithms by trying them; other operations it compiles itself, fused. On a "
    "TPU there is no such library: XLA compiles convolutions for the MXU, an array of "
    "128 x 128 multipliers (256 x 256 from v6e on) through which weights and "
    "activations flow. A layer with fewer channels than that leaves a part of it idle, "
    "and a depthwise convolution, which sums over one channel, nearly all of it.",
    "On a CPU, XLA has dense convolutions computed by libraries of its own choice; "
    "oneDNN is one of them where flags allow it. The kernels here give XLA, per "
    "platform, the form of an operation that it compiles best; the numbers are the "
    "same up to roundings.",
)

COMPILED_STEPS = Measurement("compiled_steps", _read, _show, cost=1e6)
