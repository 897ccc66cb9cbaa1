"""The process in which JAX is initialised: run by `cnn_jax.doctor.child`.

    python -m cnn_jax.doctor.inside DESCRIPTOR

The task is read from standard input, and the answers are written to the descriptor: a
line as a stage begins, and one with its result.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def main(descriptor: int, task: Mapping[str, Any]) -> None:
    """Runs the stages of a task.

    Args:
      descriptor: Where the answers go.
      task: `seconds` that it may take; `join`, the arguments of `connected_hosts`, for
        a process of several; `abort`, whether to run what may end the process.
    """
    # A process that hangs outlives nobody: not even one that was killed.
    faulthandler.dump_traceback_later(task["seconds"] + 5, exit=True)
    # What aborts leaves no file behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def stage(name: str, function: Callable[[], Any]) -> Any:
        _write(descriptor, ["begin", name, None])
        try:
            result = {"result": function()}
        except Exception as error:
            # JAX asserts some of what it misses, without a word.
            said = str(error) or traceback.format_exc().splitlines()[-2].strip()
            result = {"error": f"{type(error).__name__}: {said}"[:1000]}
        _write(descriptor, ["end", name, result])
        return result.get("result")

    from cnn_jax.doctor import computations
    from cnn_jax.training.devices import processes

    join = task.get("join")
    if join:
        connected = stage("join", lambda: _join(processes, join))
        if connected is None:
            _write(descriptor, ["end", "end", None])
            return
    devices = stage("devices", computations.describe_devices)
    if devices is None:
        _write(descriptor, ["end", "end", None])
        return
    stage("settings", computations.describe_settings)
    stage("arithmetic", computations.check_arithmetic)
    if join:
        stage("group", lambda: processes.gather_texts(str(_index())))
        stage("leave", lambda: _leave(processes))
    for name, probe in computations.PROBES.items():
        if name not in computations.ABORTING:
            stage(name, probe)
    if task.get("abort") and not join:
        for name in computations.ABORTING:
            stage(name, computations.PROBES[name])
    _write(descriptor, ["end", "end", None])


def _join(processes: Any, arguments: Mapping[str, Any]) -> dict[str, int]:
    import jax

    processes.initialize_hosts(**arguments)
    return {"count": jax.process_count(), "index": jax.process_index()}


def _index() -> int:
    import jax

    return jax.process_index()


def _leave(processes: Any) -> None:
    import jax

    processes.wait_for_hosts("doctor")
    jax.distributed.shutdown()


def _write(descriptor: int, line: Any) -> None:
    os.write(descriptor, (json.dumps(line) + "\n").encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), json.load(sys.stdin))
