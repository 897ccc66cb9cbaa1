"""The plans of `cnn-jax plan`, from its options; imported when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax

from cnn_jax import sharding
from cnn_jax.cli.plan import IMAGES_OF_A_DEVICE
from cnn_jax.cli.usage import working
from cnn_jax.files import json_value
from cnn_jax.messages import warn
from cnn_jax.models import model_info
from cnn_jax.planning.compiled import cache_directory
from cnn_jax.planning.plan import Plan, make_plan
from cnn_jax.planning.search import (
    Candidate,
    command_of,
    find_best,
    find_frontier,
    find_largest_batch,
    make_candidates,
)
from cnn_jax.planning.topology import Topology, find_devices, parse_topology
from cnn_jax.report.environment import command_line, describe_environment
from cnn_jax.report.plan_page import images, verdict
from cnn_jax.report.words import duration
from cnn_jax.training import TrainConfig

LONGEST_REASON = 500
"""Characters of a compiler's message."""


def make_record(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the plans that a command line asks for.

    Returns:
      The plans and what follows from them, as JSON has it.

    Raises:
      ValueError: If the options do not go together; raised before any compilation.
    """
    planner = _Planner(options)
    candidates = _candidates(options, planner)
    if options.cache != "none":
        cache_directory(options.cache)
    plans: list[Plan] = []
    conclusions: list[str] = []
    if options.max_batch:
        plans, conclusions = _largest(planner, candidates[0])
    elif options.search:
        for number, candidate in enumerate(candidates, start=1):
            plan = planner.make(candidate, f"[{number}/{len(candidates)}] ")
            plans += [] if plan is None else [plan]
    else:
        plan = planner.make(candidates[0], "")
        plans = [] if plan is None else [plan]
    if not plans:
        raise ValueError(planner.left_out[0])
    return _summarize(options, plans, planner.left_out, conclusions)


def _summarize(
    options: argparse.Namespace,
    plans: Sequence[Plan],
    left_out: Sequence[str],
    conclusions: list[str],
) -> dict[str, Any]:
    best = find_best(plans)
    command = None if best is None else command_of(plans[best], _also(options))
    if options.search and best is not None:
        conclusions.append(f"Best: plan {best + 1}, {command}")
    return {
        "command": command_line(),
        "environment": describe_environment().facts(),
        "model": options.model,
        "plans": [json_value(plan.to_dict()) for plan in plans],
        "best": best,
        "best_command": command,
        "frontier": find_frontier(plans),
        "left_out": left_out,
        "conclusions": conclusions,
    }


def _largest(planner: _Planner, candidate: Candidate) -> tuple[list[Plan], list[str]]:
    """Finds the largest batch that fits, and says which it is."""

    def plan_batch(batch: int) -> Plan:
        config = dataclasses.replace(candidate.config, batch_size=batch)
        plan = planner.make(dataclasses.replace(candidate, config=config), "")
        if plan is None:
            raise ValueError(planner.left_out[-1])
        return plan

    unit = planner.num_parts(candidate)
    start = candidate.config.batch_size
    plans = list(find_largest_batch(plan_batch, start, unit))
    plans.sort(key=lambda plan: plan.settings["batch_size"])
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return plans, [f"No batch from {start:,} down fits."]
    largest = fitting[-1].settings["batch_size"]
    a_device = images(fitting[-1].to_dict())
    words = f"Largest batch: {largest:,}, {a_device} a device."
    double = [p for p in plans if p.settings["batch_size"] == 2 * largest]
    if double:
        words += f" Its double: {verdict(double[0].to_dict())}"
    return plans, [words]


class _Planner:
    """Makes plans, and says on standard error what it is at.

    Args:
      options: Those of the command line.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._devices: dict[str, tuple[Topology, Sequence[Any]]] = {}
        self._seconds: list[float] = []
        self.left_out: list[str] = []

    def make(self, candidate: Candidate, place: str) -> Plan | None:
        """Makes one plan; None if its settings do not go together."""
        options, config = self._options, candidate.config
        started = time.monotonic()
        try:
            topology, devices = self.devices(candidate.topology)
            what = (
                f"{place}{config.model} for {topology.name}, batch "
                f"{config.batch_size:,}, batch norm {config.batch_norm_scope}"
                + ", remat"
                * bool(config.remat)
            )
            usual = "some minutes"
            if self._seconds:
                mean = sum(self._seconds) / len(self._seconds)
                usual = f"about {duration(mean)}"
            warn(f"{what}: compiling, {usual} unless it is kept from before ...")
            with working(what):
                plan = make_plan(
                    config,
                    topology,
                    devices,
                    num_classes=options.num_classes,
                    cache=None if options.cache == "none" else options.cache,
                )
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, jax.errors.JaxRuntimeError):
                reason = f"the compiler failed: {reason[:LONGEST_REASON]}"
            if not options.search:
                raise ValueError(reason) from error
            self.left_out.append(f"Left out: {candidate.topology}: {reason}")
            return None
        seconds = time.monotonic() - started
        if not plan.compiler["was_cached"]:
            self._seconds.append(seconds)
        warn(f"  done in {duration(seconds)}" + ", kept" * plan.compiler["was_cached"])
        return plan

    def devices(self, name: str) -> tuple[Topology, Sequence[Any]]:
        """Returns a topology and its devices."""
        if name not in self._devices:
            topology = parse_topology(name)
            self._devices[name] = topology, find_devices(topology)
        return self._devices[name]

    def num_parts(self, candidate: Candidate) -> int:
        """Returns into how many parts a batch is split."""
        _, devices = self.devices(candidate.topology)
        mesh = sharding.make_mesh(devices, candidate.config.mesh)
        return sharding.num_batch_shards(mesh)


def _candidates(options: argparse.Namespace, planner: _Planner) -> list[Candidate]:
    """Returns what the options ask for, the default first; checks all of it."""
    model_info(options.model)
    _check_single(options)
    base = TrainConfig(
        model=options.model,
        dtype=options.dtype,
        optimizer=options.optimizer,
        image_size=options.image_size,
        reduce_dtype=options.reduce_dtype,
    )
    scopes = options.batch_norm_scope
    remats: list[bool | None] = [options.remat or None]
    if options.search and options.remat is None:
        remats = [None, True]
    # A process has one number of CPU devices, the first that it is asked for.
    slices = [parse_topology(name) for name in options.topology]
    for topology in sorted(slices, key=lambda each: -each.num_chips):
        planner.devices(topology.name)
    candidates: list[Candidate] = []
    for name in options.topology:
        choices = {
            "parallel": options.parallel or ["jit"],
            "mesh": options.mesh or [None],
            "batch_size": _batches(options, len(planner.devices(name)[1])),
            "batch_norm_scope": scopes
            or (["global", "device"] if options.search else ["global"]),
            "remat": remats,
        }
        candidates += make_candidates(base, [name], choices)
    if not options.search:
        candidates[0].config.validate()
    return candidates


def _batches(options: argparse.Namespace, num_devices: int) -> list[int]:
    """Returns the batches to plan for so many devices."""
    if options.batch_per_device is not None:
        return [options.batch_per_device * num_devices]
    found: list[int] = options.batch_size or [IMAGES_OF_A_DEVICE * num_devices]
    if options.search and len(found) == 1:
        found = [found[0], max(1, found[0] // 2), found[0] * 2]
        return list(dict.fromkeys(found))
    return found


def _check_single(options: argparse.Namespace) -> None:
    if None not in (options.batch_size, options.batch_per_device):
        raise ValueError(
            "batch_per_device: got both it and batch_size; expected one of them."
        )
    names = ("topology", "batch_size", "parallel", "mesh", "batch_norm_scope")
    for name in names:
        values = getattr(options, name)
        if values is not None and len(values) > 1 and not options.search:
            raise ValueError(
                f"{name}: got {', '.join(map(str, values))}; expected one, or --search "
                "to compare several."
            )
    name = options.topology[0]
    if options.max_batch and parse_topology(name).chip is None:
        raise ValueError(
            f"max_batch: got {name}, whose memory is not known, so that every batch "
            "would fit; expected a slice of TPUs, such as v5e:2x4."
        )


def _also(options: argparse.Namespace) -> list[str]:
    if options.num_classes is None:
        return []
    return ["--num-classes", str(options.num_classes)]
