"""A process that saves checkpoints and is killed while it does; see `forks`."""

import os
import pathlib
import threading

import jax
import numpy as np

from cnn_jax.checkpoint import Checkpointer
from faults.forks import at_point, kill_self, serve

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


def kill_when_written(directory, step):
    """Has this process killed when the arrays of a step are partly on disk."""
    begun = pathlib.Path(directory, f"{step}.unfinished.orbax-checkpoint-tmp")

    def watch():
        while not any(path.stat().st_size > 10_000 for path in begun.rglob("d/*")):
            pass
        kill_self()

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
        at_point(plan["point"], plan["step"], kill_self)
    log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    save_steps(
        plan["directory"],
        plan["first"],
        plan["last"],
        size=plan.get("size", 1000),
        log=log,
    )


if __name__ == "__main__":
    serve(run)
