"""Device transforms against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data


@pytest.fixture
def images(generator):
    return generator.integers(1, 256, (64, 7, 6, 3), dtype=np.uint8)


def test_a_crop_is_a_window_of_the_padded_image(images):
    padding = 2
    cropped = np.asarray(
        jax.jit(data.random_crop, static_argnums=2)(jax.random.key(1), images, padding)
    )
    assert cropped.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    places = set()
    for image, source in zip(cropped, padded, strict=True):
        found = [
            (row, column)
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
            if np.array_equal(image, source[row : row + 7, column : column + 6])
        ]
        assert len(found) == 1
        places.update(found)
    # 64 draws from 25 places: missing a whole row or column of them is no accident.
    assert (
        {row for row, _ in places} == {column for _, column in places} == set(range(5))
    )


def test_no_padding_crops_nothing(images):
    assert data.random_crop(jax.random.key(0), images, 0) is images
    with pytest.raises(ValueError, match="0 or more"):
        data.random_crop(jax.random.key(0), images, -1)


@pytest.mark.parametrize("padding", [6, 7, 20])
def test_a_crop_far_out_is_what_a_padded_image_has_there(images, padding):
    found = data.random_crop(jax.random.key(4), images, padding)
    offsets = jax.random.randint(jax.random.key(4), (64, 2), 0, 2 * padding + 1)
    padded = np.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    for image, source, (row, column) in zip(found, padded, offsets, strict=True):
        np.testing.assert_array_equal(image, source[row : row + 7, column : column + 6])


def test_a_crop_takes_no_memory_for_padding_that_it_cannot_see(images):
    found = data.random_crop(jax.random.key(4), images, 10**9)
    assert found.shape == images.shape
    assert not found.any()
    with pytest.raises(ValueError, match=r"padding: got 1073741824, .*below 2\^30"):
        data.random_crop(jax.random.key(4), images, 2**30)


def test_about_half_of_the_images_are_mirrored_and_none_is_changed_otherwise(images):
    flipped = np.asarray(jax.jit(data.random_flip)(jax.random.key(2), images))
    is_mirrored = [
        np.array_equal(image, source[:, ::-1])
        for image, source in zip(flipped, images, strict=True)
    ]
    is_same = [
        np.array_equal(image, source)
        for image, source in zip(flipped, images, strict=True)
    ]
    assert all(a != b for a, b in zip(is_mirrored, is_same, strict=True))
    assert 16 < sum(is_mirrored) < 48


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)]
)
def test_normalising_scales_then_shifts_each_channel(images, dtype, tolerance):
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
    result = jax.jit(lambda x: data.normalize(x, mean, std, dtype))(images)
    assert result.dtype == dtype
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        np.asarray(result, np.float64), expected, rtol=tolerance, atol=10 * tolerance
    )


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), (1.0,)), ((0.5,) * 3, (1.0,) * 2), ((0.5,) * 3, (1.0, 0.0, 1.0))],
)
def test_statistics_that_do_not_fit_are_refused(images, mean, std):
    with pytest.raises(ValueError, match="3 entries each"):
        data.normalize(images, mean, std)


def test_a_padding_of_a_narrow_dtype_reaches_as_far(images):
    wide = data.random_crop(jax.random.key(3), images, 200)
    narrow = data.random_crop(jax.random.key(3), images, np.uint8(200))
    np.testing.assert_array_equal(narrow, wide)
