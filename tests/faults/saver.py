"""A process that saves checkpoints and is killed while it does.

Run as a program, it imports once, then forks a child for every line of JSON on its
input, before JAX has started a thread, and answers how the child ended: a kill costs
the time of a save, not of an import.
"""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import jax
import numpy as np

from cnn_jax.checkpoint import Checkpointer, points

KEEP, KEEP_EVERY = 2, 10


def tree_at(step, size=1000):
    """Returns what is saved at a step, different at every step."""
    generator = np.random.default_rng(step)
    return {
        "layer": {"kernel": generator.standard_normal((size, 16), np.float32)},
        "moments": generator.standard_normal(size).astype(np.float16),
        "step": np.int32(step),
    }


def save_steps(directory, first, last, *, size=1000, log=None):
    """Saves the steps from `first` to `last`; `log` gets each when it counts."""
    with Checkpointer(directory, keep=KEEP, keep_every=KEEP_EVERY) as checkpointer:
        for step in range(first, last + 1):
            tree = jax.tree.map(jax.numpy.asarray, tree_at(step, size))
            checkpointer.save(step, tree, {"saved": step}, metric=-float(step))
            checkpointer.wait()
            if log is not None:
                os.write(log, f"{step}\n".encode())


def kill_at(point, step):
    """Has this process killed when the save of a step reaches a point."""
    begun = []

    def on_reach(reached):
        begun.extend([None] * (reached == "save_begins"))
        if reached == point and len(begun) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    points.on_reach = on_reach


def kill_when_written(directory, step):
    """Has this process killed when the arrays of a step are partly on disk."""
    begun = pathlib.Path(directory, f"{step}.unfinished.orbax-checkpoint-tmp")

    def watch():
        while not any(path.stat().st_size > 10_000 for path in begun.rglob("d/*")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    def guarded():
        while True:
            try:
                watch()
            except OSError:  # a file was renamed under the watch
                continue

    threading.Thread(target=guarded, daemon=True).start()


def run(plan):
    """Saves as a plan says; its steps begin at 1."""
    if plan.get("point") == "arrays_half_written":
        kill_when_written(plan["directory"], plan["step"])
    elif "point" in plan:
        kill_at(plan["point"], plan["step"])
    log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    save_steps(
        plan["directory"],
        plan["first"],
        plan["last"],
        size=plan.get("size", 1000),
        log=log,
    )


def main():
    for line in sys.stdin:
        plan = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                run(plan)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        time.sleep(plan.get("seconds", 0.0))
        if "seconds" in plan:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(status), flush=True)


if __name__ == "__main__":
    main()
