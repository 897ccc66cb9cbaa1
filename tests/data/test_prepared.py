"""Images in memory that are read again for evaluation."""

import numpy as np
import PIL.Image
import pytest

from cnn_jax import data
from cnn_jax.preprocessing import Preprocessing


def read(folder, channels):
    """Returns a set in memory, brought from 40 x 30 pixels to 16 x 16."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        pixels = random.integers(0, 256, (30, 40, channels), np.uint8).squeeze()
        PIL.Image.fromarray(pixels).save(folder / name / "0.png")
    source = data.with_channels(data.Folder(folder, "train"), channels)
    return data.read_source(source, image_size=16)


@pytest.mark.parametrize("mode", ["center", "squash", "border", "pad"])
@pytest.mark.parametrize(("own", "wanted"), [(1, 3), (3, 1)])
def test_another_number_of_channels_is_kept(tmp_path, own, wanted, mode):
    dataset = data.with_channels(read(tmp_path, own), wanted)
    mean, std = (0.5,) * wanted, (0.25,) * wanted
    how = Preprocessing(16, mean, std, crop_mode=mode, channels=wanted)
    found = data.evaluated(dataset, how)
    assert found.image_shape == (16, 16, wanted)
    for image, path in zip(found.images, sorted(tmp_path.glob("*/0.png")), strict=True):
        np.testing.assert_array_equal(image, data.prepared_image(path, how))
