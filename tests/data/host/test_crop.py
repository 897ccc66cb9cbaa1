"""The crops of evaluation: cases made by hand, and timm's transforms."""

import dataclasses

import numpy as np
import pytest
from helpers.photographs import write_photographs
from PIL import Image

from cnn_jax.data import eval_transform, prepared_image
from cnn_jax.data.host import CenterCrop, ImageError
from cnn_jax.preprocessing import Preprocessing


def crop(pixels, preprocessing):
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    return np.asarray(eval_transform(preprocessing)(image))


def grey(size, **fields):
    fields = {"crop_fraction": 1.0, "interpolation": "nearest", **fields}
    return Preprocessing(size, (0.2,), (1.0,), channels=1, **fields)


COLUMNS = np.tile(np.arange(8) * 10, (4, 1))
"""Four rows of 0, 10, ... 70."""


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (grey(4), [[20, 30, 40, 50]] * 4),
        (grey(2, crop_fraction=0.5), [[30, 40]] * 2),
        (grey(4, crop_mode="squash"), [[10, 30, 50, 70]] * 4),
        (grey(2, crop_mode="squash", crop_fraction=0.5), [[30, 50]] * 2),
        # The longer side is 8, and 2 rows are missing above and below: 0.2 * 255.
        (
            grey(8, crop_mode="border"),
            [[51] * 8] * 2 + [list(range(0, 80, 10))] * 4 + [[51] * 8] * 2,
        ),
        (grey(4, crop_mode="border", crop_fraction=0.5), [[20, 30, 40, 50]] * 4),
        (grey(4, crop_mode="pad"), [[10, 30, 50, 70]] * 4),
    ],
    ids=lambda value: (
        f"{value.crop_mode} {value.crop_fraction} to {value.size}"
        if isinstance(value, Preprocessing)
        else ""
    ),
)
def test_a_crop_made_by_hand(preprocessing, expected):
    np.testing.assert_array_equal(crop(COLUMNS, preprocessing), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_a_little_smaller_images_keep_their_pixels_in_a_black_border(interpolation):
    digit = np.random.default_rng(0).integers(0, 256, (28, 30)).astype(np.uint8)
    how = grey(32, crop_mode="pad", interpolation=interpolation)
    expected = np.zeros((32, 32), np.uint8)
    expected[2:30, 1:31] = digit
    np.testing.assert_array_equal(crop(digit, how), expected)
    # Beyond a quarter they are stretched.
    assert crop(digit[:23], how)[0].any()
    # What is cut out of the padded 36 x 36 is their middle.
    part = grey(32, crop_mode="pad", crop_fraction=8 / 9)
    np.testing.assert_array_equal(crop(digit, part), expected)


@pytest.mark.parametrize("mode", ["center", "squash", "border", "pad"])
def test_an_image_of_the_inputs_size_stays_as_it_is(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    how = Preprocessing(16, crop_fraction=1.0, crop_mode=mode, interpolation="lanczos")
    np.testing.assert_array_equal(crop(pixels, how), pixels)


def test_the_filter_is_the_one_that_is_named():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        found = crop(pixels, Preprocessing(16, interpolation=name))
        resample = Image.Resampling[name.upper()]
        whole = CenterCrop(16, 0.875, resample)(Image.fromarray(pixels))
        np.testing.assert_array_equal(found, np.asarray(whole))


def test_files_are_read_as_evaluation_sees_them(tmp_path):
    write_photographs(tmp_path, 1)
    for path in sorted(tmp_path.rglob("*.*")):
        how = Preprocessing(24, crop_mode="squash")
        found = prepared_image(path, how)
        with Image.open(path) as image:
            expected = np.asarray(eval_transform(how)(image.convert("RGB")))
        np.testing.assert_array_equal(found, expected)
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=path.name):
        prepared_image(path, how)


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(300, 400), (500, 280), (256, 256)])
def test_is_timms(mode, interpolation, fraction, shape):
    """Up to the rounding of the resized image's sides, which are whole numbers there.

    The picture is smooth, so that half a pixel is worth little.
    """
    from references import libraries

    libraries.import_torchvision()
    from timm.data import create_transform

    rows, columns = np.mgrid[: shape[0], : shape[1]] / 40
    pixels = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=-1)
    pixels = np.round(127.5 + 100 * pixels).astype(np.uint8)
    mean = (0.2, 0.4, 0.6)
    reference = create_transform(
        (3, 224, 224),
        interpolation=interpolation,
        crop_pct=fraction,
        crop_mode=mode,
        mean=mean,
        std=(1.0, 1.0, 1.0),
    )
    expected = reference(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    expected = (expected + np.asarray(mean)) * 255
    how = Preprocessing(
        224,
        mean,
        crop_fraction=fraction,
        crop_mode=mode,
        interpolation=interpolation,
    )
    difference = np.abs(crop(pixels, how) - expected)
    # A border may begin a row earlier or later.
    assert np.median(difference) < 1.5
    assert np.mean(difference > 10) < 0.02
    other = dataclasses.replace(how, crop_fraction=fraction - 0.1)
    assert np.mean(np.abs(crop(pixels, other) - expected) > 10) > 0.1
