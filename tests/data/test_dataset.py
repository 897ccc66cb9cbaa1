"""What a dataset promises once it exists."""

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
        ({"images": np.zeros((60, 4, 5), np.uint8)}, "expected uint8 of shape"),
        ({"images": np.zeros((60, 4, 5, 3), np.float32)}, "got images float32"),
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
