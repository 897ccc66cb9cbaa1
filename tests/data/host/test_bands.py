"""Large images, converted a part at a time, come out as they would whole."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.host import bands as bands_module
from cnn_jax.data.host.bands import bands


@pytest.mark.parametrize("size", [(7, 9), (1, 50), (50, 1), (30, 20)])
def test_bands_are_all_of_the_image(monkeypatch, generator, size):
    width, height = size
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    for most in (1, 20, 10_000):
        monkeypatch.setattr(bands_module, "_PIXELS", most)
        found = list(bands(Image.fromarray(pixels)))
        parts = [np.asarray(band) for _, band in found]
        np.testing.assert_array_equal(np.concatenate(parts), pixels)
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        assert [top for top, _ in found] == starts.tolist()
        assert all(part.size <= 3 * max(most, width) for part in parts)
