"""Kills whole training runs until they are through, and compares what they end with.

    PYTHONPATH=tests python -m faults.sweep --runs 500

A run is killed with SIGKILL at a random time, at a random moment behind a random step
or behind a SIGTERM there, or at one of the points that every save passes, alone or with
its workers, or gets SIGTERM or SIGINT while it starts, and is restarted with `resume`;
up to four times, all drawn from the run's seed. Its final state, its metrics and its
best epoch must be those of a run that was left alone, and nothing may be left behind:
no object in `/dev/shm`, no unfinished file or step. Exits with 1 otherwise.

The runs' Python is the one that this is started by.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from helpers.photographs import write_photographs
from helpers.run_files import read_end

from cnn_jax.checkpoint import points
from cnn_jax.data import owner
from cnn_jax.files import write_output
from cnn_jax.report.environment import command_line, describe_environment
from cnn_jax.training.run.stopping import STOPPED_EXIT_CODE
from faults.forks import HUNG, Server
from faults.runs import PHOTOGRAPHS, VARIANTS

MOST_KILLS = 4
SHORTEST_DELAY = 1e-3
"""Seconds. A run that is over before such a signal has not heard it at all."""

STARTING = "a signal while it starts"
WARNINGS = ("-W", "ignore::DeprecationWarning", "-W", "ignore::RuntimeWarning")


@dataclasses.dataclass
class Outcome:
    """The outcome of one run."""

    seed: int
    variant: str
    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    """The number of kills, by the kind of the moment."""
    stops: int = 0
    """The number of signals that had stopped it before it was killed."""
    signals: int = 0
    """The number of those that came while it started, or later in that process."""
    left: list = dataclasses.field(default_factory=list)
    """The names of what it left behind."""
    during_save: int = 0
    """The number of kills during a save, or during the removal of an old step."""
    problem: str = ""
    """A description of its end, if not as expected."""


def start_server(work, **options):
    """Returns a server of runs that share compiled programs under a directory."""
    photographs = work / "photographs"
    if not photographs.exists():
        write_photographs(photographs, 16, side=20)
    return Server(
        "runs.py",
        **options,
        **{PHOTOGRAPHS: str(photographs)},
        JAX_COMPILATION_CACHE_DIR=str(work / "programs"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )


def leave_alone(server, work, variant):
    """Returns a variant's end without a fault."""
    run_dir = work / "alone" / variant
    run_dir.parent.mkdir(exist_ok=True)
    log = work / "alone" / f"{variant}.log"
    plan = {"variant": variant, "run_dir": str(run_dir), "output": str(log)}
    status = server(**plan, resume=False)
    if status != 0:
        raise RuntimeError(f"{variant}: exit status {status}.\n{log.read_text()}")
    return read_end(run_dir)


def variant_of(seed):
    """Returns the variant that a seed runs: resident and streamed data take turns."""
    return list(VARIANTS)[seed % len(VARIANTS)]


def draw_kill(generator, num_steps):
    """Returns the kind of a moment, and the moment as `runs.kill_as_planned` has it.

    Of a signal while it starts, the moment is as `start_afresh` has it.
    """
    kind = generator.choice(["time", "step", "step", "stop", "point", "start"])
    if kind == "start":
        number = generator.choice([signal.SIGTERM, signal.SIGINT])
        return STARTING, {"number": number, "delay": generator.uniform(0, 8)}
    group = {"group": generator.random() < 0.5}
    if kind == "time":
        return "at a random time", {"delay": generator.uniform(0, 2), **group}
    if kind != "point":
        step = generator.randint(1, num_steps)
        kill = {"step": step, "delay": generator.uniform(0, 0.1), **group}
        if kind == "step":
            return "behind a random step", kill
        return "while it stopped", {**kill, "stop_first": True}
    point = generator.choice(points.POINTS)
    return point, {"point": point, "save": generator.randint(1, 4), **group}


def start_afresh(server, plan, *, number, delay):
    """Starts a run in a process of its own, and sends a signal to its group.

    Args:
      server: Whose environment it gets, and which notes its process.
      plan: Of the run.
      number: The signal.
      delay: Seconds from when the process listens to signals.

    Returns:
      The exit status.
    """
    command = [sys.executable, *WARNINGS, "fresh.py", json.dumps(plan)]
    with open(plan["output"], "w") as output:
        process = subprocess.Popen(
            command,
            cwd=pathlib.Path(__file__).parent,
            env=server.environment,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    server.pids.append(process.pid)
    with process.stdout:
        process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        try:
            return process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return HUNG


def left_behind(run_dir, pids):
    """Returns what runs left that have ended: shared objects, files and directories."""
    left = []
    for _ in range(50):  # a process that cleans up for the run may still be at it
        names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
        owners = tuple(f"{owner.PREFIX}{pid}-" for pid in pids)
        left = [name for name in names if name.removeprefix("sem.").startswith(owners)]
        left += [
            str(path.relative_to(run_dir))
            for path in run_dir.rglob("*")
            if re.search(r"\.(new|unfinished|removed)|tmp|incomplete", path.name)
        ]
        if not left:
            break
        time.sleep(0.1)
    return left


def kill_until_done(server, work, seed, expected):
    """Kills a run as its seed says, resumes it to its end and judges that.

    Args:
      server: A server of runs.
      work: Where the run's directory is made; it stays if there is a problem.
      seed: Decides the variant and the kills.
      expected: `leave_alone` of its variant.

    Returns:
      The outcome.
    """
    variant = variant_of(seed)
    outcome = Outcome(seed, variant)
    generator = random.Random(seed)
    run_dir, log = work / f"run-{seed}", work / f"run-{seed}.log"
    plan = {"variant": variant, "run_dir": str(run_dir), "output": str(log)}
    num_steps = expected["metrics"][-1]["step"]
    server.pids.clear()
    for attempt in range(generator.randint(1, MOST_KILLS)):
        kind, moment = draw_kill(generator, num_steps)
        status = disturb(server, plan, kind, moment, resume=attempt > 0)
        while status == 0 and attempt == 0 and moment.get("delay", 0) > SHORTEST_DELAY:
            # The run was over before: a seed that kills nothing would test nothing.
            shutil.rmtree(run_dir)
            moment = {**moment, "delay": moment["delay"] / 2}
            status = disturb(server, plan, kind, moment, resume=False)
        if kind == STARTING:
            outcome.signals += status == STOPPED_EXIT_CODE
            if status == STOPPED_EXIT_CODE and "Traceback" in log.read_text():
                break
        if status not in (-signal.SIGKILL, -signal.SIGTERM, STOPPED_EXIT_CODE):
            break
        if status != -signal.SIGKILL:
            outcome.stops += 1  # in time, before the kill
            continue
        outcome.kills[kind] += 1
        outcome.during_save += kind in points.POINTS or in_save(run_dir)
    else:
        status = server(**plan, resume=True)
    outcome.left = left_behind(run_dir, server.pids)
    if status != 0:
        outcome.problem = f"exit status {status}: {log.read_text()}"
    elif (end := read_end(run_dir)) != expected:
        different = [name for name in end if end[name] != expected[name]]
        outcome.problem = f"other values of {', '.join(different)}"
    elif outcome.left:
        outcome.problem = f"left behind: {', '.join(outcome.left)}"
    else:
        shutil.rmtree(run_dir)
        log.unlink()
    return outcome


def disturb(server, plan, kind, moment, *, resume):
    """Runs with a kill as `draw_kill` gave it; returns the exit status."""
    if kind == STARTING:
        return start_afresh(server, {**plan, "resume": resume}, **moment)
    return server(**plan, kill=moment, resume=resume)


def in_save(run_dir):
    """Returns whether a killed run's directory holds an unfinished save."""
    directory = run_dir / "checkpoints"
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return any(".unfinished" in name or ".removed" in name for name in names)


def sweep(work, seeds, *, jobs, report):
    """Carries out the runs of all seeds; `report` gets the outcomes so far."""
    servers = queue.SimpleQueue()
    started = [start_server(work) for _ in range(jobs)]
    try:
        expected = {}
        for each in VARIANTS:
            print(f"{each}: a run that is left alone", flush=True)
            expected[each] = leave_alone(started[0], work, each)
        for server in started:
            servers.put(server)

        def carry_out(seed):
            server = servers.get()
            try:
                end = expected[variant_of(seed)]
                return kill_until_done(server, work, seed, end)
            finally:
                servers.put(server)

        outcomes = []
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for outcome in pool.map(carry_out, seeds):
                outcomes.append(outcome)
                report(outcomes)
        return outcomes
    finally:
        for server in started:
            server.close()


def summarize(outcomes):
    """Returns the totals, for JSON."""
    kills = sum((outcome.kills for outcome in outcomes), collections.Counter())
    return {
        "runs": len(outcomes),
        "kills": kills.total(),
        "stops": sum(outcome.stops for outcome in outcomes),
        "stops_of_fresh_processes": sum(outcome.signals for outcome in outcomes),
        "during_a_save": sum(outcome.during_save for outcome in outcomes),
        "kills_by_moment": dict(kills.most_common()),
        "runs_by_variant": dict(collections.Counter(each.variant for each in outcomes)),
        "left_behind": {each.seed: each.left for each in outcomes if each.left},
        "unequal": {each.seed: each.problem for each in outcomes if each.problem},
    }


def sentence(totals):
    """Says the totals in one sentence."""
    unequal = len(totals["unequal"])
    verdict = (
        f"{unequal} of the runs did NOT end equal to the undisturbed one."
        if unequal
        else "every run ended equal to the undisturbed one."
    )
    return (
        f"{totals['runs']} runs, {totals['kills']} kills, {totals['during_a_save']} of "
        f"them during a save, {totals['stops']} stops by a signal: "
        f"{unequal} differing, {len(totals['left_behind'])} left behind; {verdict}"
    )


def print_progress(num_runs):
    """Returns a function that prints a line now and then, with the time left."""
    printed = []

    def report(outcomes):
        now, done = time.monotonic(), len(outcomes)
        if outcomes[-1].problem:
            print(f"seed {outcomes[-1].seed}: {outcomes[-1].problem}", flush=True)
        if not printed:  # the first took the undisturbed runs' time, too
            printed.extend([now, now])
        started, last = printed
        if now - last < 10:
            return
        printed[1] = now
        left = (now - started) / (done - 1) * (num_runs - done)
        kills = sum(outcome.kills.total() for outcome in outcomes)
        print(
            f"{done}/{num_runs} runs, {kills} kills, {now - started:.0f} s, about "
            f"{left:.0f} s left",
            flush=True,
        )

    return report


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="how many (20)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument("--json", type=pathlib.Path, help="file for the totals")
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sweep-"))
    started = time.monotonic()
    outcomes = sweep(
        work,
        range(options.first_seed, options.first_seed + options.runs),
        jobs=options.jobs,
        report=print_progress(options.runs),
    )
    totals = summarize(outcomes)
    if options.json is not None:
        report = {
            "command": command_line(),
            "environment": dataclasses.asdict(describe_environment()),
            "seconds": round(time.monotonic() - started, 1),
            **totals,
        }
        write_output(options.json, json.dumps(report, indent=1) + "\n")
    if totals["unequal"]:
        print(f"What is left of the unequal runs is in {work}.")
    else:
        shutil.rmtree(work)
    print(f"{time.monotonic() - started:.0f} s")
    print(sentence(totals))
    sys.exit(bool(totals["unequal"]))


if __name__ == "__main__":
    main()
