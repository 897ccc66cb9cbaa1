"""Made-up images."""

import numpy as np
import pytest

from cnn_jax import data


def test_examples_are_the_same_everywhere_and_differ_from_each_other():
    source = data.open_source("synthetic:8x6x3", "train")
    again = data.open_source("synthetic:8x6x3", "train")
    assert isinstance(source, data.Source)
    assert source.features == data.Features((8, 6, 3), encoded=False)
    images = [source[index].image for index in (0, 10, 20)]
    assert images[0].shape == (8, 6, 3)
    assert images[0].dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 3
    np.testing.assert_array_equal(again[10].image, images[1])
    test = data.open_source("synthetic:8x6x3", "test")
    assert not np.array_equal(test[10].image, images[1])
    assert test.fingerprint != source.fingerprint == again.fingerprint


def test_the_class_can_be_learned():
    source = data.open_source("synthetic:8x8x1", "test")
    means = np.asarray([source[index].image.mean() for index in range(100)])
    labels = np.asarray([source[index].label for index in range(100)])
    np.testing.assert_array_equal(np.clip((means - 20) // 20, 0, 9), labels)


@pytest.mark.parametrize("name", ["synthetic", "synthetic:8x8", "synthetic:8x8x2"])
def test_a_wrong_size_says_what_was_meant(name):
    with pytest.raises(ValueError, match="synthetic:HxWxC"):
        data.open_source(name, "train")


def test_an_unknown_split():
    with pytest.raises(ValueError, match="split: got 'tain', expected one of"):
        data.open_source("synthetic:8x8x3", "tain")
