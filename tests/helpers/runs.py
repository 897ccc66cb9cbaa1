"""A training run's files, written without training."""

import json

import jax
import numpy as np

from cnn_jax.checkpoint import Checkpointer

CONFIG = {"model": "lenet5", "dataset": "mnist", "mean": [0.1], "std": [0.3]}


def scaled(variables, factor):
    return jax.tree.map(
        lambda leaf: (leaf * np.float32(factor)).astype(leaf.dtype), variables
    )


def make_run(
    path, variables, *, steps=(1, 2), best=0, average=False, metadata=None, **config
):
    """Writes what a run writes; a step's weights are the variables times the step."""
    config = {**CONFIG, **config}
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"config": config}))
    where = config.get("checkpoint_dir") or path / "checkpoints"
    with Checkpointer(where, keep=9) as checkpointer:
        for step in steps:
            found = scaled(variables, step)
            state = {"step": np.int32(step), "batch_stats": {}, **found}
            state["opt_state"] = [scaled(variables["params"], -1), np.int32(step)]
            if average:
                state["average"] = scaled(found, 10)
            is_known = best and step >= best
            record = {
                "best_epoch": int(bool(is_known)),
                "best_step": best if is_known else 0,
            }
            checkpointer.save(
                step,
                {"state": state, "epoch": {"loss": np.float32(0)}},
                {"config": config, "record": record, **(metadata or {})},
                metric=0.9 if step == best else 0.1 if best else None,
            )
    return path
