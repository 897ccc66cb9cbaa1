"""Maps over images: resizing against PyTorch's rule, colours against matplotlib's."""

import jax
import numpy as np
import pytest

from cnn_jax.analysis.overlay import INFERNO, overlay, paint, resize_maps


def test_maps_are_resized_bilinearly(generator):
    maps = generator.uniform(size=(2, 3, 4)).astype(np.float32)
    expected = jax.image.resize(maps, (2, 9, 7), "bilinear")
    np.testing.assert_allclose(resize_maps(maps, (9, 7)), expected, rtol=1e-5)
    np.testing.assert_array_equal(resize_maps(maps, (3, 4)), maps)
    np.testing.assert_array_equal(
        resize_maps(maps[:, :1, :1], (2, 2))[0], maps[0, 0, 0]
    )


def test_colors_are_matplotlibs():
    matplotlib = pytest.importorskip("matplotlib")
    values = np.linspace(0, 1, 101)
    expected = 255 * matplotlib.colormaps["inferno"](values)[:, :3]
    np.testing.assert_allclose(paint(values), expected, atol=9)
    np.testing.assert_array_equal(np.round(paint(values[::10])), np.round(INFERNO))


def test_overlay_by_hand():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[0, 0, 0] = 255, 0, 0
    images[1] = 200
    maps = np.zeros((2, 2, 2))
    maps[0, 0, 1] = 7.0
    maps[0, 1, 1] = 3.5
    picture = overlay(images, maps, opacity=0.25, colors=((0, 0, 0), (40, 80, 120)))
    assert picture.dtype == np.uint8
    # 0.75 times the lightness of pure red; a quarter of the colours.
    np.testing.assert_array_equal(picture[0, 0, 0], [57, 57, 57])
    np.testing.assert_array_equal(picture[0, 0, 1], [10, 20, 30])
    np.testing.assert_array_equal(picture[0, 1, 1], [5, 10, 15])
    # A map of zeros divides by nothing.
    np.testing.assert_array_equal(picture[1], 150)


def test_each_map_has_its_own_scale_and_gray_images_fit(generator):
    images = generator.integers(0, 255, (2, 4, 4, 1), np.uint8)
    maps = generator.uniform(size=(2, 2, 2))
    scaled = overlay(images, maps * np.array([[[1e-9]], [[1e9]]]))
    np.testing.assert_array_equal(scaled, overlay(images, maps))
    bare = overlay(images, maps, opacity=0)
    np.testing.assert_array_equal(bare, np.repeat(images, 3, axis=-1))


@pytest.mark.parametrize(
    ("images", "maps", "options", "message"),
    [
        (np.zeros((1, 4, 4, 3)), np.zeros((1, 2, 2)), {}, "expected uint8"),
        (np.zeros((1, 4, 4), "u1"), np.zeros((1, 2, 2)), {}, "expected uint8"),
        (np.zeros((1, 4, 4, 3), "u1"), np.zeros((2, 2, 2)), {}, r"\(1, h, w\)"),
        (np.zeros((1, 4, 4, 3), "u1"), np.full((1, 2, 2), -1), {}, "at least 0"),
        (np.zeros((1, 4, 4, 3), "u1"), np.full((1, 2, 2), np.nan), {}, "finite"),
        (np.zeros((1, 4, 4, 3), "u1"), np.zeros((1, 2, 2)), {"opacity": 2}, "0 to 1"),
    ],
)
def test_refuses(images, maps, options, message):
    with pytest.raises(ValueError, match=message):
        overlay(images, maps, **options)
