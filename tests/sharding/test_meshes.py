"""Meshes, from devices and from a specification, and how batches are placed on them."""

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


def test_a_specification_names_axes_in_its_order():
    mesh = sharding.make_mesh(specification=" spatial=2, data=4")
    assert dict(mesh.shape) == {"spatial": 2, "data": 4}
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert list(mesh.devices.flat) == jax.devices()
    assert sharding.parse_mesh({"fsdp": 8}) == {"fsdp": 8}


def test_every_mistake_in_a_specification_is_listed_at_once():
    with pytest.raises(ValueError) as error:
        sharding.parse_mesh("data=4,model=2,data=2,fsdp=0,spatial")
    assert str(error.value).splitlines()[1:] == [
        "  'model' is no axis, expected one of ('data', 'fsdp', 'spatial')",
        "  data is given twice",
        "  fsdp: got '0', expected a number of at least 1",
        "  spatial: got '', expected a number of at least 1",
    ]


def test_a_product_that_is_not_the_devices_is_refused():
    with pytest.raises(ValueError, match=r"data=2 x fsdp=2, which is 4.*the 8 devices"):
        sharding.make_mesh(specification="data=2,fsdp=2")


def test_a_mesh_that_a_slice_cannot_hold_is_refused(monkeypatch):
    def refuse(*arguments, **options):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 0")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    with pytest.raises(ValueError, match=r"got data=4,fsdp=2, which the slice's shape"):
        sharding.make_mesh(specification="data=4,fsdp=2")


@pytest.mark.parametrize(
    ("specification", "image", "label"),
    [
        ("data=8", (2, 8, 6, 3), (2,)),
        ("data=2,fsdp=4", (2, 8, 6, 3), (2,)),
        ("data=2,spatial=4", (8, 2, 6, 3), (8,)),
        ("spatial=8", (16, 1, 6, 3), (16,)),
    ],
)
def test_images_and_labels_are_split_alike(specification, image, label):
    mesh = sharding.make_mesh(specification=specification)
    batch = {"image": jnp.zeros((16, 8, 6, 3)), "label": jnp.zeros(16)}
    shardings = sharding.batch_shardings(mesh, batch)
    found = {name: shardings[name].shard_shape(x.shape) for name, x in batch.items()}
    assert found == {"image": image, "label": label}
    assert sharding.num_batch_shards(mesh) == 16 // label[0]


def test_rows_that_do_not_divide_are_refused():
    mesh = sharding.make_mesh(specification="data=2,spatial=4")
    sharding.check_image_height(8, mesh)
    with pytest.raises(ValueError, match="image height: got 6, expected a multiple"):
        sharding.check_image_height(6, mesh)
