"""Batches cut on the device: every example once, in an order that can be repeated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data


def make_dataset(num_examples):
    labels = np.arange(num_examples)
    images = np.broadcast_to(labels.reshape(-1, 1, 1, 1), (num_examples, 2, 2, 1))
    names = tuple(map(str, labels))
    return data.Dataset("numbers", "train", images.astype(np.uint8), labels, names)


def test_an_epoch_visits_each_example_once_and_every_epoch_differs():
    order = jax.jit(data.epoch_order, static_argnums=2)
    epochs = [np.asarray(order(jax.random.key(0), epoch, 50)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    np.testing.assert_array_equal(order(jax.random.key(0), 1, 50), epochs[1])
    assert not np.array_equal(order(jax.random.key(1), 1, 50), epochs[1])


def test_a_batch_holds_the_examples_that_the_order_names():
    dataset = make_dataset(23)
    arrays = {"image": dataset.images, "label": dataset.labels}
    order = data.epoch_order(jax.random.key(5), 0, 23)
    seen = []
    for index in range(data.num_batches(23, 5)):
        batch = data.training_batch(arrays, order, index, 5)
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
        seen += list(np.asarray(batch["label"]))
    np.testing.assert_array_equal(seen, order[:20])


def test_a_position_follows_from_the_step():
    assert data.locate(0, 7) == (0, 0)
    assert data.locate(20, 7) == (2, 6)
    assert data.locate(21, 7) == (3, 0)


@pytest.mark.parametrize("batch_size", [0, 24])
def test_an_epoch_without_a_full_batch_is_refused(batch_size):
    with pytest.raises(ValueError, match="expected 1 to 23"):
        data.num_batches(23, batch_size)


@pytest.mark.parametrize("num_examples", [1, 5, 23, 25])
def test_evaluation_counts_each_example_once(num_examples):
    arrays = data.pad_to_batches(make_dataset(num_examples), 5)
    seen = []
    for index in range(len(arrays["label"]) // 5):
        batch = data.evaluation_batch(arrays, index, 5)
        assert batch["image"].shape == (5, 2, 2, 1)
        seen += list(np.asarray(batch["label"])[np.asarray(batch["mask"]) == 1])
    assert seen == list(range(num_examples))
    assert arrays["mask"].sum() == num_examples


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int64])
def test_batches_of_a_narrow_index_are_those_of_a_wide_one(dtype):
    dataset = make_dataset(600)
    arrays = {"label": dataset.labels}
    order = data.epoch_order(jax.random.key(0), 0, 600)
    padded = data.pad_to_batches(dataset, 100)
    cut = jax.jit(data.training_batch, static_argnums=3)
    for index in (jnp.asarray(dtype(5)), dtype(5)):
        batch = cut(arrays, order, index, 100)
        np.testing.assert_array_equal(batch["label"], order[500:])
        batch = data.evaluation_batch(padded, index, 100)
        np.testing.assert_array_equal(batch["label"], np.arange(500, 600))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_sizes_may_be_narrow_integers_of_numpy(dtype):
    dataset = make_dataset(120)
    batch = data.training_batch(
        {"label": dataset.labels}, np.arange(120, dtype=dtype), 3, dtype(30)
    )
    np.testing.assert_array_equal(batch["label"], np.arange(90, 120))
    assert len(data.pad_to_batches(dataset, dtype(100))["label"]) == 200
    assert data.epoch_order(jax.random.key(0), 0, dtype(120)).dtype == jnp.int32
