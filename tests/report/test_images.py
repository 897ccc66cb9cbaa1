"""Sheets of images, and images as part of a page."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from cnn_jax.report import html as pages
from cnn_jax.report.images import (
    GAP,
    contact_sheet,
    encode_png,
    png_data_uri,
    with_caption,
)


def test_images_stand_row_by_row(generator):
    images = generator.integers(0, 255, (5, 4, 3, 3), np.uint8)
    sheet = contact_sheet(images, columns=2, scale=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * (8 + GAP) + GAP, 2 * (6 + GAP) + GAP, 3)
    expected = np.full_like(sheet, 255)
    for index, image in enumerate(images):
        row, column = divmod(index, 2)
        for y in range(8):
            for x in range(6):
                place = (GAP + row * (8 + GAP) + y, GAP + column * (6 + GAP) + x)
                expected[place] = image[y // 2, x // 2]
    np.testing.assert_array_equal(sheet, expected)


def test_a_sheet_is_nearly_square_unless_told():
    sheet = contact_sheet(np.zeros((7, 4, 4), np.uint8))
    assert sheet.shape == (3 * (4 + GAP) + GAP,) * 2 + (3,)
    assert contact_sheet(np.zeros((2, 4, 4)), columns=9).shape[1] == 2 * 6 + GAP


def test_gray_and_floating_point_images():
    values = np.array([[0.0, 0.5], [1.0, 2.0], [np.nan, -np.inf]])
    sheet = contact_sheet([values])[GAP:-GAP, GAP:-GAP]
    expected = np.array([[0, 128], [255, 255], [0, 0]], np.uint8)
    np.testing.assert_array_equal(sheet, np.stack([expected] * 3, -1))
    np.testing.assert_array_equal(contact_sheet(values[None, ..., None]), sheet_of(255))


def sheet_of(white):
    return contact_sheet(
        [np.array([[0, 128], [white, white], [0, 0]], np.uint8)], columns=1
    )


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "no image"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], {}, "2 sizes"),
        ([np.zeros((2, 2, 4))], {}, r"shape \(2, 2, 4\)"),
        ([np.zeros((0, 2))], {}, "not empty"),
        ([np.zeros((2, 2), np.int64)], {}, "dtype int64"),
        ([np.zeros((2, 2))], {"columns": 0}, "columns 0"),
        ([np.zeros((2, 2))], {"scale": 0}, "scale 0"),
    ],
)
def test_refuses(images, options, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(images, **options)


def test_png_holds_the_pixels(generator):
    image = generator.integers(0, 255, (5, 4, 3), np.uint8)
    decoded = PIL.Image.open(io.BytesIO(encode_png(image)))
    np.testing.assert_array_equal(np.asarray(decoded), image)
    head, _, content = png_data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == encode_png(image)


def test_a_caption_stands_below_and_widens(generator):
    image = generator.integers(0, 255, (20, 200, 3), np.uint8)
    labelled = with_caption(image, "cat 0.98")
    np.testing.assert_array_equal(labelled[:20], image)
    assert (labelled[20:] < 128).any()
    longer = with_caption(image, "a caption much longer than the image is wide, truly")
    assert longer.shape[1] > 200
    assert (longer[:, -3:] == 255).all()
    assert with_caption(image, "two\nlines").shape[0] > labelled.shape[0]


def test_pictures_are_part_of_the_page():
    source = png_data_uri(np.zeros((2, 2), np.uint8))
    picture = pages.Picture(source, 'a "black" square', "<none>")
    text = pages.render_block(pages.Pictures([picture, picture]))
    assert text.count(f'src="{source}"') == 2
    assert 'alt="a &quot;black&quot; square"' in text
    assert "<figcaption>&lt;none&gt;</figcaption>" in text
    assert "figcaption" not in pages.render_block(pages.Picture(source, "square"))
    with pytest.raises(ValueError, match="loads nothing from elsewhere"):
        pages.Picture("https://example.org/x.png", "x")
