"""Meshes and the two shardings that data parallelism needs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from cnn_jax import sharding


def test_a_mesh_covers_all_devices_with_an_automatic_axis():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count()}
    assert mesh.axis_types == (AxisType.Auto,)
    assert sharding.make_mesh(jax.devices()[:2]).size == 2


def test_batches_are_split_and_the_rest_is_copied():
    mesh = sharding.make_mesh()
    x = jnp.arange(16.0).reshape(16, 1)
    split = jax.device_put(x, sharding.batch_sharded(mesh))
    copied = jax.device_put(x, sharding.replicated(mesh))
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 1)}
    assert {shard.data.shape for shard in copied.addressable_shards} == {(16, 1)}


@pytest.mark.parametrize("batch_size", [0, -8, 4, 12])
def test_a_batch_that_does_not_divide_is_refused(batch_size):
    with pytest.raises(ValueError, match=r"multiple of the 8 devices.* 8"):
        sharding.check_batch_size(batch_size, sharding.make_mesh())


def test_a_batch_that_divides_is_accepted():
    sharding.check_batch_size(24, sharding.make_mesh())


def test_a_mesh_without_devices_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        sharding.make_mesh([])
