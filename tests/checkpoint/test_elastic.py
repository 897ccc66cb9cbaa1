"""Saved on eight devices, restored on any other number, and back, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax import sharding, trees
from cnn_jax.checkpoint import Checkpointer

SPECS = {
    "split": PartitionSpec("data"),
    "split_last": PartitionSpec(None, None, None, "data"),
    "copied": PartitionSpec(),
}


def shardings(num_devices):
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    return {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}


def make_tree():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "split": jax.random.normal(keys[0], (64, 5)),
        "split_last": jax.random.normal(keys[1], (3, 3, 4, 16)).astype(jnp.bfloat16),
        "copied": jnp.array([jnp.nan, -0.0, jnp.inf]),
    }


@pytest.mark.parametrize("others", [(4, 8), (1, 8, 2)])
def test_from_eight_devices_and_back(tmp_path, others):
    tree = jax.device_put(make_tree(), shardings(8))
    assert tree["split"].addressable_shards[7].data.shape == (8, 5)
    with Checkpointer(tmp_path) as checkpointer:
        for step, num_devices in enumerate(others):
            checkpointer.save(step, tree, {})
            where = shardings(num_devices)
            template = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=place
                ),
                tree,
                where,
            )
            tree = checkpointer.restore(template).tree
            assert jax.tree.map(lambda leaf: leaf.sharding, tree) == where
            assert trees.digest(tree) == trees.digest(make_tree())


def test_a_sharded_array_with_one_wrong_shard_is_noticed(tmp_path, monkeypatch):
    x = jax.device_put(make_tree()["split"], shardings(8)["split"])
    wrong = np.array(x)
    wrong[-1, -1] += 1
    digest = trees.digest({"x": wrong})
    with Checkpointer(tmp_path) as checkpointer:
        with monkeypatch.context() as patched:
            patched.setattr(trees, "digest", lambda _: digest)
            checkpointer.save(1, {"x": x}, {})
        with pytest.raises(RuntimeError, match="not those that were saved"):
            checkpointer.restore({"x": x}, step=1)
