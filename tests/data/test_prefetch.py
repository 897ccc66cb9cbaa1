"""Batches on the devices ahead of time: in order, closed cleanly, errors in place."""

import jax
import numpy as np
import pytest

from cnn_jax import data, sharding


class Batches:
    """Counts the batches that were taken, and fails or ends after some."""

    def __init__(self, count, error=None):
        self.count, self.error = count, error
        self.given, self.is_closed = 0, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.count:
            raise self.error or StopIteration
        self.given += 1
        image = np.full((8, 2, 2, 3), self.given, np.uint8)
        return {"image": image, "label": np.arange(8, dtype=np.int32)}

    def close(self):
        self.is_closed = True


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


@pytest.fixture(scope="module")
def split(mesh):
    return sharding.batch_sharded(mesh)


def numbers(batches):
    return [int(batch["image"][0, 0, 0, 0]) for batch in batches]


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_every_batch_once_and_in_order(split, size):
    batches = Batches(5)
    found = data.device_prefetch(batches, split, size=size)
    assert numbers(found) == [1, 2, 3, 4, 5]
    assert batches.is_closed


def test_batches_lie_where_they_should(mesh, split):
    everywhere = sharding.replicated(mesh)
    places = {"image": split, "label": everywhere}
    (batch,) = data.device_prefetch(Batches(1), places)
    assert {name: array.sharding for name, array in batch.items()} == places
    assert len(batch["image"].sharding.device_set) == jax.device_count()
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(batch["label"], np.arange(8))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_as_many_are_ahead_as_asked_for(split, size):
    batches = Batches(10)
    found = data.device_prefetch(batches, split, size=size)
    assert batches.given == 0
    for taken in range(1, 5):
        next(found)
        assert batches.given == taken + size - 1
    found.close()
    assert batches.is_closed


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_error_comes_behind_the_batches_before_it(split, size):
    batches = Batches(3, ValueError("torn in two"))
    found = data.device_prefetch(batches, split, size=size)
    assert numbers(next(found) for _ in range(3)) == [1, 2, 3]
    with pytest.raises(ValueError, match="torn in two"):
        next(found)
    assert batches.is_closed


def test_closing_while_an_error_waits_is_clean(split):
    batches = Batches(3, ValueError("torn in two"))
    found = data.device_prefetch(batches, split, size=3)
    next(found)
    next(found)
    found.close()
    assert batches.is_closed


def test_none_ahead_is_refused(split):
    with pytest.raises(ValueError, match="size: got 0"):
        data.device_prefetch(Batches(1), split, size=0)
