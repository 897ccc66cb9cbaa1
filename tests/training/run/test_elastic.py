"""A run that goes on with other devices: the same examples, and the same numbers."""

import collections
import dataclasses
import os
import signal

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax import sharding, trees
from cnn_jax.training.run import feeds
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.stopping import RunStoppedError

# How it is spread, on how many devices, and until which of its 22 steps.
STAGES = (
    ({"parallel": "jit", "mesh": "data=2,fsdp=4"}, 8, 5),
    ({"parallel": "shard_map"}, 4, 10),
    ({"parallel": "jit"}, 1, 17),
    ({"parallel": "shard_map"}, 8, 22),
)


def make_net():
    return cnn_jax.create_model(
        "resnet20",
        stage_sizes=(1,),
        stage_features=(8,),
        stem_features=8,
        dtype=np.float64,
        param_dtype=np.float64,
    )


@pytest.fixture
def examples(monkeypatch):
    """The numbers of the examples that each step was given, by the step."""
    seen = collections.defaultdict(set)
    batch = feeds.ResidentFeed.batch

    def watched_batch(self, inputs, step):
        first = (step % self.steps_per_epoch) * self._batch_size
        chosen = jax.lax.dynamic_slice(inputs["order"], (first,), (self._batch_size,))
        jax.debug.callback(
            lambda step, chosen: seen[int(step)].add(tuple(map(int, chosen))),
            step,
            chosen,
        )
        return batch(self, inputs, step)

    monkeypatch.setattr(feeds.ResidentFeed, "batch", watched_batch)
    return seen


def stop_at(step):
    def hook(record, state):
        if record["event"] == "step" and record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


@pytest.mark.slow
def test_from_eight_devices_to_four_to_one_and_back(
    digits, config, tmp_path, x64, examples
):
    config = dataclasses.replace(
        config, epochs=2, log_every_steps=1, ema_decay=0.9, run_dir=str(tmp_path / "a")
    )
    expected = fit(make_net(), digits[0], test=digits[1], config=config, progress=False)
    order = dict(examples)
    assert sorted(order) == list(range(22))
    examples.clear()

    config = dataclasses.replace(config, run_dir=str(tmp_path / "b"))
    for changes, num_devices, end in STAGES:
        stage = dataclasses.replace(config, **changes)
        mesh = sharding.make_mesh(jax.devices()[:num_devices], stage.mesh)
        arguments = {"progress": False, "mesh": mesh, "callbacks": [stop_at(end)]}
        if end < 22:
            with pytest.raises(RunStoppedError, match=f"at step {end} of 22"):
                fit(make_net(), digits[0], test=digits[1], config=stage, **arguments)
        else:
            result = fit(
                make_net(),
                digits[0],
                test=digits[1],
                config=stage,
                progress=False,
                mesh=mesh,
            )
        config = dataclasses.replace(config, resume=True)

    assert dict(examples) == order
    found, wanted = map(trees.named_leaves, (result.state, expected.state))
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        leaf, other = np.asarray(leaf), np.asarray(found[name])
        assert leaf.dtype in (np.float64, np.int32), name
        norm = np.linalg.norm(np.ravel(leaf))
        assert np.linalg.norm(np.ravel(other - leaf)) <= 1e-12 * norm, name
    assert result.test["accuracy"] == expected.test["accuracy"]
