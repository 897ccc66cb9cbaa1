"""Reads thousands of mutated files of each format, and says how each reading ended.

    PYTHONPATH=tests python -m fuzzing.run --mutations 10000 --json record.json
    PYTHONPATH=tests python -m fuzzing.run --reproduce npz 1234

A reading succeeds, or raises ValueError, OSError or CheckpointError with the path in
its text; within 10 s and 1 GiB; it writes nothing elsewhere, imports nothing, starts
and unpickles nothing. Exits with 1 if one does not. `--reproduce` leaves the mutated
file.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cnn_jax
from cnn_jax.messages import printable
from cnn_jax.report.environment import command_line, describe_environment
from fuzzing import worker
from fuzzing.formats import GIBIBYTE, all_formats, load_format
from fuzzing.worker import MAX_SECONDS, Outcome

_START_SECONDS = 300.0
"""Seconds that a worker may take until it has read the good example."""

_CHUNK = 1000
"""Mutations that one worker carries out, before a fresh one takes its place."""


class UnavailableError(Exception):
    """A format cannot be read here, since something is not installed."""


@dataclasses.dataclass
class Totals:
    """The outcomes of one format.

    Attributes:
      mutations: How many there were.
      read: How many files were read in spite of their mutation.
      refused: How many were refused as promised.
      failures: Seed -> outcome of all others.
      most_seconds: The longest reading.
      most_bytes: The most memory that one took.
    """

    mutations: int = 0
    read: int = 0
    refused: int = 0
    failures: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    most_seconds: float = 0.0
    most_bytes: int = 0

    def add(self, outcome: Outcome) -> None:
        """Counts an outcome."""
        self.mutations += 1
        self.read += outcome.end == "read"
        self.refused += outcome.end == "refused"
        if outcome.end not in ("read", "refused"):
            self.failures[outcome.seed] = outcome
        self.most_seconds = max(self.most_seconds, outcome.seconds)
        self.most_bytes = max(self.most_bytes, outcome.bytes)


def fuzz(
    name: str,
    seeds: range,
    *,
    jobs: int = 1,
    report: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Reads the mutated files of all seeds of a format, in processes of their own.

    Args:
      name: The format, as `load_format` takes it.
      seeds: Successive ones.
      jobs: How many processes at a time.
      report: Called with the totals after every outcome.

    Returns:
      The totals.

    Raises:
      UnavailableError: If the format cannot be read here.
    """
    totals = Totals()
    lock = threading.Lock()

    def add(outcome: Outcome) -> None:
        with lock:
            totals.add(outcome)
            report(totals)

    chunk = min(_CHUNK, -(-len(seeds) // jobs))
    chunks = [seeds[start : start + chunk] for start in range(0, len(seeds), chunk)]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(_carry_out, name, each, add) for each in chunks]:
            future.result()
    return totals


def _carry_out(name: str, seeds: range, add: Callable[[Outcome], None]) -> None:
    """Has workers carry out all seeds: a fresh one after each that does not return."""
    while seeds:
        with tempfile.TemporaryDirectory(prefix="fuzzing-") as work:
            outcome = _work(name, seeds, work, add)
        if outcome is None:
            return
        add(outcome)
        seeds = range(outcome.seed + 1, seeds.stop)


def _work(
    name: str, seeds: range, work: str, add: Callable[[Outcome], None]
) -> Outcome | None:
    """Runs one worker; returns the outcome that it did not live to report, if any."""
    log = pathlib.Path(work, "log")
    arguments = (name, os.path.join(work, "work"), str(seeds.start), str(len(seeds)))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "fuzzing.worker", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": _import_path()},
        )
    assert process.stdout is not None  # it is a pipe
    begun: int | None = None
    killed = ""
    # A line that is waited for may lie in a buffered reader, where `select` is blind.
    descriptor, ahead = process.stdout.fileno(), b""
    try:
        while True:
            seconds = _START_SECONDS if begun is None else MAX_SECONDS + 2
            ready, _, _ = select.select([descriptor], [], [], seconds)
            if not ready:
                killed = f"took over {seconds:.0f} s"
                process.send_signal(signal.SIGABRT)  # so that it prints where it is
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                break
            received = os.read(descriptor, 2**16)
            if not received:
                process.wait()
                break
            *lines, ahead = (ahead + received).split(b"\n")
            for line in map(json.loads, lines):
                if "unavailable" in line:
                    raise UnavailableError(f"{name} needs {line['unavailable']}")
                if "begins" in line:
                    begun = line["begins"]
                elif "seed" in line:
                    add(Outcome(**line))
                    begun = -1 - line["seed"]  # it is done
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        status = process.wait()
    said = log.read_text("utf-8", "replace")[-3000:]
    if begun is None:
        raise RuntimeError(f"{name}: the good example cannot be read.\n{said}")
    if begun < 0:
        if status != 0:
            raise RuntimeError(f"{name}: a worker ended with {status}.\n{said}")
        return None
    return Outcome(begun, end=killed or f"ended the process ({status})", text=said)


def _import_path() -> str:
    """Returns where a process finds this package, and the `cnn_jax` that is in use."""
    here = pathlib.Path(__file__).parents[1]
    there = pathlib.Path(cnn_jax.__file__).parents[1]
    already = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(map(str, filter(None, [here, there, *already])))


def summarize(totals: Totals) -> dict[str, Any]:
    """Returns a format's totals, for JSON."""
    kinds = collections.Counter(each.end for each in totals.failures.values())
    return {
        "mutations": totals.mutations,
        "read": totals.read,
        "refused": totals.refused,
        "failed": len(totals.failures),
        "failures_by_kind": dict(kinds.most_common()),
        "failures": {seed: each.end for seed, each in totals.failures.items()},
        "most_seconds": totals.most_seconds,
        "most_mebibytes": round(totals.most_bytes / 2**20),
    }


def sentence(name: str, totals: Totals) -> str:
    """Says a format's totals in one sentence."""
    return (
        f"{name}: {totals.mutations} mutations, {totals.read} read, {totals.refused} "
        f"refused, {len(totals.failures)} FAILED; at most {totals.most_seconds:.1f} s "
        f"and {totals.most_bytes / GIBIBYTE:.2f} GiB."
    )


def reproduce(name: str, seed: int) -> int:
    """Carries out one mutation in this process, prints it, and leaves the file."""
    form = load_format(name)
    work = pathlib.Path(tempfile.mkdtemp(prefix="fuzzing-"))
    prepared = worker.prepare(form, work)
    worker.apply(form, prepared, seed)
    print(f"the mutated file is in {prepared.case}", flush=True)
    outcome = worker.carry_out(form, prepared, seed)
    print(f"{outcome.mutated}: {outcome.end}, {outcome.seconds} s")
    print(outcome.text)
    return outcome.end not in ("read", "refused")


def _print_progress(name: str, num_mutations: int) -> Callable[[Totals], None]:
    started = last = time.monotonic()

    def report(totals: Totals) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 10:
            return
        last = now
        left = (now - started) / totals.mutations * (num_mutations - totals.mutations)
        print(
            f"{name}: {totals.mutations}/{num_mutations}, {len(totals.failures)} "
            f"failed, about {left:.0f} s left",
            flush=True,
        )

    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=500, help="of each (500)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first")
    parser.add_argument("--formats", help="names, joined by commas (all)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument("--json", type=pathlib.Path, help="file for the totals")
    parser.add_argument("--reproduce", nargs=2, metavar=("FORMAT", "SEED"))
    options = parser.parse_args()
    if options.reproduce is not None:
        sys.exit(reproduce(options.reproduce[0], int(options.reproduce[1])))
    names: Sequence[str] = (
        tuple(all_formats()) if options.formats is None else options.formats.split(",")
    )
    seeds = range(options.first_seed, options.first_seed + options.mutations)
    started = time.monotonic()
    found: dict[str, Totals] = {}
    for name in names:
        try:
            progress = _print_progress(name, len(seeds))
            found[name] = fuzz(name, seeds, jobs=options.jobs, report=progress)
        except UnavailableError as error:
            print(f"skipped: {error}", flush=True)
            continue
        for seed, outcome in sorted(found[name].failures.items())[:20]:
            lines = outcome.text.strip().splitlines()
            shown = lines[-1:] if outcome.mutated else lines[:30]
            text = printable("\n".join(shown)[:2000], keep="\n")
            print(f"  {seed} ({outcome.mutated}): {outcome.end}; {text}")
        print(sentence(name, found[name]), flush=True)
        if options.json is not None:  # after each: all of them take hours
            record = {
                "command": command_line(),
                "environment": dataclasses.asdict(describe_environment()),
                "seconds": round(time.monotonic() - started, 1),
                "formats": {name: summarize(each) for name, each in found.items()},
            }
            options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(any(each.failures for each in found.values()))


if __name__ == "__main__":
    main()
