"""Invariants of every dataset."""

import dataclasses

import numpy as np
import pytest

from cnn_jax.data import Dataset


@pytest.fixture
def dataset(generator):
    return Dataset(
        name="noise",
        split="train",
        images=generator.integers(0, 256, (60, 4, 5, 3), dtype=np.uint8),
        labels=np.arange(60) % 3,
        class_names=("a", "b", "c"),
    )


def test_shapes_and_classes(dataset):
    assert len(dataset) == 60
    assert dataset.image_shape == (4, 5, 3)
    assert dataset.num_classes == 3
    assert dataset.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(60, 3)}, r"expected 0 to 2 for 3 classes.* index 0"),
        ({"labels": np.where(np.arange(60) == 7, -1, 0)}, "from -1 to 0.*index 7"),
        ({"labels": np.zeros(59, int)}, r"expected integers of shape \(60,\)"),
        ({"labels": np.zeros(60)}, "got labels float64"),
        (
            {"images": np.zeros((60, 4, 5), np.uint8)},
            "expected uint8 or floating-point",
        ),
        ({"images": np.zeros((60, 4, 5, 3), np.int32)}, "got images int32"),
        (
            {"images": np.zeros((0, 4, 5, 3), np.uint8), "labels": np.zeros(0, int)},
            "no examples",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(dataset, change, message):
    with pytest.raises(ValueError, match=f"'noise', split 'train'.*{message}"):
        dataclasses.replace(dataset, **change)


def test_the_fingerprint_sees_pixels_labels_names_and_order(dataset):
    images, labels = dataset.images.copy(), dataset.labels.copy()
    images[3, 1, 2, 0] ^= 1
    labels[5] = (labels[5] + 1) % 3
    changed = [
        dataclasses.replace(dataset, images=images),
        dataclasses.replace(dataset, labels=labels),
        dataclasses.replace(dataset, class_names=("a", "b", "d")),
        dataset.take(np.arange(60)[::-1]),
        dataclasses.replace(dataset, images=dataset.images.reshape(60, 5, 4, 3)),
    ]
    same = dataclasses.replace(dataset, name="copy", images=dataset.images.copy())
    assert same.fingerprint == dataset.fingerprint
    assert len({dataset.fingerprint, *(each.fingerprint for each in changed)}) == 6


def test_channel_statistics_are_those_of_the_scaled_pixels(dataset):
    scaled = dataset.images.astype(np.float64) / 255
    mean, std = dataset.channel_statistics
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_a_held_out_part_is_stratified_disjoint_and_reproducible(dataset):
    rest, held = dataset.split_off(0.25, seed=3)
    assert np.bincount(held.labels).tolist() == [5, 5, 5]
    assert np.bincount(rest.labels).tolist() == [15, 15, 15]
    pixels = {image.tobytes() for image in dataset.images}
    parts = [{image.tobytes() for image in part.images} for part in (rest, held)]
    assert parts[0] | parts[1] == pixels
    assert not parts[0] & parts[1]
    again = dataset.split_off(0.25, seed=3)[1]
    other = dataset.split_off(0.25, seed=4)[1]
    assert again.fingerprint == held.fingerprint != other.fingerprint


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.001, 0.999])
def test_a_part_must_leave_something_on_both_sides(dataset, fraction):
    with pytest.raises(ValueError, match="fraction"):
        dataset.split_off(fraction)


def test_a_draw_per_class_is_balanced_and_grows_by_adding(dataset):
    few, more = (dataset.take_per_class(count, seed=3) for count in (2, 5))
    assert np.bincount(few.labels).tolist() == [2, 2, 2]
    assert np.bincount(more.labels).tolist() == [5, 5, 5]
    seen, all_seen = (
        [image.tobytes() for image in part.images] for part in (few, more)
    )
    assert set(seen) < set(all_seen)
    assert dataset.take_per_class(5, seed=4).fingerprint != more.fingerprint
    assert dataset.take_per_class(20).fingerprint == dataset.fingerprint
    assert dataset.take_per_class(99).fingerprint == dataset.fingerprint
    with pytest.raises(ValueError, match="count: got 0"):
        dataset.take_per_class(0)


def test_some_classes_are_numbered_as_listed(dataset):
    some = dataset.of_classes([2, 0])
    assert (some.class_names, len(some)) == (("c", "a"), 40)
    np.testing.assert_array_equal(
        some.images[some.labels == 0], dataset.images[dataset.labels == 2]
    )
    np.testing.assert_array_equal(
        some.images[some.labels == 1], dataset.images[dataset.labels == 0]
    )
    for classes in ([0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="expected different ones from 0 to 2"):
            dataset.of_classes(classes)


def test_gray_images_get_equal_channels(dataset):
    gray = dataclasses.replace(dataset, images=dataset.images[..., :1])
    color = gray.with_channels(3)
    assert color.image_shape == (4, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(color.images[..., channel], gray.images[..., 0])
    assert dataset.with_channels(3) is dataset
    with pytest.raises(ValueError, match="got 2 for images of 3"):
        dataset.with_channels(2)


def test_floating_point_images_are_kept_as_they_are():
    random = np.random.default_rng(0)
    images = random.normal(3.0, 2.0, (40, 4, 5, 2))
    dataset = Dataset("noise", "train", images, np.zeros(40, int), ("one",))
    assert dataset.images.dtype == np.float32
    np.testing.assert_array_equal(dataset.images, images.astype(np.float32))
    mean, std = dataset.channel_statistics
    rows = images.astype(np.float32).reshape(-1, 2)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, rows.std(axis=0), rtol=1e-5)
