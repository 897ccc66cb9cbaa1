"""Contact sheets show every picture in its place; URIs hold what they were given."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cnn_jax.report.images import MARGIN, contact_sheet, data_uri


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2])
def test_pictures_stand_in_rows(generator, channels, scale):
    pictures = generator.integers(0, 255, (5, 4, 6, channels), np.uint8)
    sheet = contact_sheet(pictures, columns=3, scale=scale)
    high, wide = 4 * scale, 6 * scale
    assert sheet.shape == (2 * high + MARGIN, 3 * wide + 2 * MARGIN, 3)
    covered = np.zeros(sheet.shape[:2], bool)
    for number, picture in enumerate(pictures):
        top, left = number // 3 * (high + MARGIN), number % 3 * (wide + MARGIN)
        part = slice(top, top + high), slice(left, left + wide)
        for row in range(scale):
            for column in range(scale):
                found = sheet[part][row::scale, column::scale]
                assert (found == picture).all()
        covered[part] = True
    assert (sheet[~covered] == 255).all()


def test_a_row_that_is_not_full_is_as_wide():
    sheet = contact_sheet(np.zeros((2, 4, 4, 3), np.uint8), columns=8)
    assert sheet.shape == (4, 8 * 4 + 7 * MARGIN, 3)


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        ([], "got none"),
        ([np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)], "[2, 3, 3]"),
        ([np.zeros((2, 2, 3))], "got float64[2, 2, 3]"),
        ([np.zeros((2, 2, 2), np.uint8)], "got uint8[2, 2, 2]"),
        ([np.zeros((2, 2), np.uint8)], "got uint8[2, 2]"),
    ],
)
def test_what_is_no_picture_is_named(pictures, found):
    with pytest.raises(ValueError) as error:
        contact_sheet(pictures, columns=2)
    assert found in str(error.value)


@pytest.mark.parametrize("options", [{"columns": 0}, {"columns": 2, "scale": 0}])
def test_sheets_have_a_size(options):
    with pytest.raises(ValueError, match="columns, scale"):
        contact_sheet(np.zeros((1, 2, 2, 3), np.uint8), **options)


def test_uris_hold_the_picture(generator):
    pixels = generator.integers(0, 256, (8, 9, 3), np.uint8)

    def decoded(uri, kind):
        start, text = uri.split(",")
        assert start == f"data:image/{kind};base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))

    np.testing.assert_array_equal(decoded(data_uri(pixels), "png"), pixels)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    difference = decoded(data_uri(smooth, quality=90), "jpeg").astype(int) - smooth
    assert np.abs(difference).max() <= 3
