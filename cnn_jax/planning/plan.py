"""A plan: the needs of one training step on a device, as its compiler sees them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnn_jax.analysis.summary import summarize
from cnn_jax.models import create_model
from cnn_jax.models.registry import sized_for
from cnn_jax.planning.collectives import Collective, find_collectives, total_seconds
from cnn_jax.planning.compiled import CACHE, Answer, compile_program, refused_bytes
from cnn_jax.planning.hlo import Instruction, activation_bytes, read_instructions
from cnn_jax.planning.layers import PASSES, Place, module_paths, place_all
from cnn_jax.planning.step import PlannedStep, plan_step
from cnn_jax.planning.topology import Topology
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.timing import FLOPS_PER_MAC

NUM_EXPENSIVE = 10
"""The most expensive instructions that a plan names."""

Numbers = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The needs of a step on each device. All numbers are the compiler's estimates.

    Attributes:
      settings: What was asked for: `model`, `topology`, `batch_size` and the other
        fields of `TrainConfig` that decide it.
      devices: `count`, `per_chip`, `kind`, and `images`, the batch by the count: less
        than one where devices share an image.
      fits: Whether the step compiles and fits into a device's memory.
      refusal: Why it does not, as the compiler says it; empty if it does.
      memory: Bytes of a device: `parameters`, `optimizer`, `batch_statistics`,
        `averages`, `batch`, `activations`, `temporaries`, `code`, their `total`, and
        `available`. None for what is not known.
      flops: FLOPs of a device and a step, as XLA counts them: two for a multiply-add.
      bytes: Bytes of memory that the step's instructions read and write.
      cycles: The sum of the compiler's estimates; None if it gives none.
      without_estimate: Instructions that may take time and have no estimate.
      roofline: `intensity` (FLOPs a byte), the chip's `ridge`, what the step is `bound`
        by, and the least seconds by either limit.
      speed: `step_seconds` (cycles by the clock, and the collectives, as if none ran
        beside them), `images_per_second` of all devices, `mfu`, and
        `collective_share` of the seconds.
      layers: Cycles, instructions and bytes of results by layer and pass; their cycles
        sum to `cycles`.
      expensive: The most expensive instructions.
      collectives: Messages between devices.
      compiler: Seconds of compilation, whether it came from the cache, versions.
    """

    settings: Numbers
    devices: Numbers
    fits: bool
    refusal: str
    memory: Numbers
    flops: float | None
    bytes: float | None
    cycles: int | None
    without_estimate: int | None
    roofline: Numbers
    speed: Numbers
    layers: Sequence[Numbers]
    expensive: Sequence[Numbers]
    collectives: Sequence[Collective]
    compiler: Numbers

    @property
    def cycles_per_image(self) -> float | None:
        """Cycles of a device for each of its images; None if unknown."""
        if self.cycles is None:
            return None
        return float(self.cycles * self.devices["count"] / self.settings["batch_size"])

    @property
    def seconds_per_image(self) -> float | None:
        """Seconds of the whole slice for an image; None if unknown."""
        rate = self.speed["images_per_second"]
        return None if rate is None else 1 / rate

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON can hold it."""
        return dataclasses.asdict(self)


def make_plan(
    config: TrainConfig,
    topology: Topology,
    devices: Sequence[Any],
    *,
    num_classes: int | None = None,
    cache: str | os.PathLike[str] | None = CACHE,
    fields: Mapping[str, Any] | None = None,
) -> Plan:
    """Compiles the step of a run for a slice and says what it needs.

    Args:
      config: The run's configuration: its model, batch, dtype, parallelism, optimizer.
        Without `image_size`, images have the model's own.
      topology: The slice.
      devices: Its devices, from `find_devices`.
      num_classes: The number of logits; None for the model's own.
      cache: As for `compile_program`.
      fields: Fields of the model that differ from its own, beside the configuration's.

    Raises:
      ValueError: If the configuration is invalid, or does not fit model and devices.
    """
    config.validate()
    overrides = {**config.model_overrides(), **(fields or {})}
    model = create_model(
        config.model,
        num_classes=num_classes,
        in_channels=config.in_channels,
        dtype=config.dtype,
        **overrides,
    )
    *size, channels = sized_for(model)
    side = config.image_size
    shape = (*((side, side) if side else size), channels)
    step = plan_step(model, config, devices, shape, platform=topology.platform)
    answer, was_cached = compile_program(step.trace(), devices, cache=cache)
    macs = summarize(model, shape).macs
    paths = module_paths(model, shape)
    return read_plan(step, answer, topology, paths, macs=macs, was_cached=was_cached)


def read_plan(
    step: PlannedStep,
    answer: Answer,
    topology: Topology,
    paths: Iterable[str],
    *,
    macs: int,
    was_cached: bool,
) -> Plan:
    """Returns the plan that follows from what the compiler said of a step.

    Args:
      step: The step.
      answer: What the compiler said of it.
      topology: The slice that it was compiled for.
      paths: The paths of the network's modules.
      macs: Multiply-adds of a forward pass of an image.
      was_cached: Whether the answer was in the cache.
    """
    instructions = read_instructions(answer.text)
    places = place_all(instructions, frozenset(paths))
    cycles = [each.cycles for each in instructions if each.cycles is not None]
    total = sum(cycles) if cycles else None
    devices = _devices(step, topology)
    per_chip: int = devices["per_chip"]
    chip = topology.chip
    bandwidth = None if chip is None else chip.ici_bandwidth
    collectives = find_collectives(
        instructions,
        step.mesh.shape,
        bandwidth=None if bandwidth is None else bandwidth / per_chip,
        shape=topology.shape,
    )
    # Without a program, its collectives are not known.
    exchange = total_seconds(collectives) if answer.text else None
    passes = {name: place.part for name, place in places.items()}
    memory = _memory(step, answer, topology, per_chip, instructions, passes)
    needed, available = memory["total"], memory["available"]
    is_over = needed is not None and available is not None and needed > available
    return Plan(
        settings=_settings(step, topology),
        devices=devices,
        fits=not answer.refusal and not is_over,
        refusal=answer.refusal,
        memory=memory,
        flops=answer.costs.get("flops"),
        bytes=answer.costs.get("bytes accessed"),
        cycles=total,
        without_estimate=None if total is None else _num_unknown(instructions),
        roofline=_roofline(answer, topology, per_chip),
        speed=_speed(step, topology, per_chip, total, exchange, macs),
        layers=_by_layer(instructions, places),
        expensive=_expensive(instructions, places),
        collectives=collectives,
        compiler={
            "seconds": answer.seconds,
            "was_cached": was_cached,
            **answer.versions,
        },
    )


def _devices(step: PlannedStep, topology: Topology) -> dict[str, Any]:
    count, batch_size = step.mesh.devices.size, step.config.batch_size
    is_whole = batch_size % count == 0
    return {
        "count": count,
        "per_chip": max(1, count // topology.num_chips),
        "images": batch_size // count if is_whole else batch_size / count,
        "kind": step.mesh.devices.flat[0].device_kind,
    }


def _settings(step: PlannedStep, topology: Topology) -> dict[str, Any]:
    config = step.config
    size = step.batch["image"].shape[1]
    return {
        "model": config.model,
        "topology": topology.name,
        "batch_size": config.batch_size,
        "image_size": size,
        "dtype": config.dtype,
        "parallel": config.parallel,
        "mesh": ",".join(f"{axis}={n}" for axis, n in step.mesh.shape.items()),
        "batch_norm_scope": config.batch_norm_scope,
        "reduce_dtype": config.reduce_dtype,
        "optimizer": config.optimizer,
        "remat": bool(config.remat),
    }


def _memory(
    step: PlannedStep,
    answer: Answer,
    topology: Topology,
    per_chip: int,
    instructions: list[Instruction],
    passes: Mapping[str, str],
) -> dict[str, int | None]:
    chip = topology.chip
    available = None if chip is None else chip.hbm_bytes // per_chip
    kept = {**step.kept_bytes(), "batch": step.batch_bytes()}
    found = answer.memory
    if not found:
        needed, limit = refused_bytes(answer.refusal)
        unknown = dict.fromkeys(("activations", "temporaries", "code"), None)
        total: int | None = needed
        if needed is not None and "for HLO temporaries" in answer.refusal:
            total = needed + sum(kept.values())
        return kept | unknown | {"total": total, "available": limit or available}
    # What is kept for the backward pass is among the temporaries.
    activations = min(activation_bytes(instructions, passes), found["temporaries"])
    results = found["outputs"] - found["aliases"]
    whole = found["arguments"] + results + found["temporaries"] + found["code"]
    # Layouts pad what is kept, and small results are new: all that counts as kept.
    kept["padding"] = found["arguments"] + results - sum(kept.values())
    return kept | {
        "activations": activations,
        "temporaries": found["temporaries"] - activations,
        "code": found["code"],
        "total": whole,
        "available": available,
    }


def _num_unknown(instructions: Iterable[Instruction]) -> int:
    return sum(
        each.opcode == "reduce-window" and each.is_entry and each.cycles is None
        for each in instructions
    )


def _roofline(answer: Answer, topology: Topology, per_chip: int) -> dict[str, Any]:
    chip = topology.chip
    flops, moved = (answer.costs.get(name) for name in ("flops", "bytes accessed"))
    intensity = flops / moved if flops and moved else None
    found: dict[str, Any] = {"intensity": intensity, "ridge": None, "bound": None}
    if chip is None or flops is None or moved is None or intensity is None:
        return found | {"compute_seconds": None, "memory_seconds": None}
    return found | {
        "ridge": chip.ridge,
        "bound": "compute" if intensity > chip.ridge else "memory",
        "compute_seconds": flops / (chip.peak_flops / per_chip),
        "memory_seconds": moved / (chip.hbm_bandwidth / per_chip),
    }


def _speed(
    step: PlannedStep,
    topology: Topology,
    per_chip: int,
    cycles: int | None,
    exchange: float | None,
    macs: int,
) -> dict[str, float | None]:
    chip = topology.chip
    names = ("step_seconds", "images_per_second", "mfu", "collective_share")
    if chip is None or cycles is None:
        return {"collective_seconds": exchange, **dict.fromkeys(names)}
    seconds = cycles / chip.clock + (exchange or 0.0)
    rate = step.config.batch_size / seconds
    peak = chip.peak_flops * step.mesh.devices.size / per_chip
    return {
        "collective_seconds": exchange,
        "step_seconds": seconds,
        "images_per_second": rate,
        "mfu": FLOPS_PER_MAC * macs * rate / peak,
        "collective_share": None if exchange is None else exchange / seconds,
    }


def _by_layer(
    instructions: Iterable[Instruction], places: Mapping[str, Place]
) -> list[dict[str, Any]]:
    """Returns the cycles of each layer by pass, in the program's order of layers."""
    rows: dict[str, dict[str, Any]] = {}
    for each in instructions:
        if each.cycles is None:
            continue
        place = places[each.name]
        row = rows.setdefault(
            place.layer,
            {"layer": place.layer, **dict.fromkeys(PASSES, 0), "cycles": 0, "count": 0},
        )
        row[place.part] += each.cycles
        row["cycles"] += each.cycles
        row["count"] += 1
    return list(rows.values())


def _expensive(
    instructions: Iterable[Instruction], places: Mapping[str, Place]
) -> list[dict[str, Any]]:
    known = [each for each in instructions if each.cycles is not None]
    known.sort(key=lambda each: -(each.cycles or 0))
    return [
        {
            "name": each.name,
            "opcode": each.opcode,
            "operation": each.op_name.rpartition("/")[2],
            "layer": places[each.name].layer,
            "part": places[each.name].part,
            "cycles": each.cycles,
            "result": re.sub(r"\{[^{}]*\}", "", each.type),
        }
        for each in known[:NUM_EXPENSIVE]
    ]
