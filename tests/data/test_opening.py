"""The choice of a split's path, and holding out a part of a source."""

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import opening


def test_small_images_of_one_size_become_resident(folder, monkeypatch):
    assert isinstance(data.open_split("digits", "test"), data.Dataset)
    small = data.open_split("synthetic:8x8x3", "test")
    assert isinstance(small, data.Dataset)
    assert small.images.shape == (256, 8, 8, 3)
    monkeypatch.setattr(opening, "RESIDENT_BYTES", 256 * 8 * 8 * 3 - 1)
    assert not isinstance(data.open_split("synthetic:8x8x3", "test"), data.Dataset)
    # The images of a folder may be of any size.
    assert not isinstance(data.open_split(f"folder:{folder}", "train"), data.Dataset)


def test_the_path_can_be_chosen(folder):
    stream = data.open_split("synthetic:8x8x3", "test", path="stream")
    assert not isinstance(stream, data.Dataset)
    resident = data.open_split(
        f"folder:{folder}", "train", path="resident", image_size=8
    )
    assert resident.image_shape == (8, 8, 3)


def test_holding_out_splits_a_source_in_two(folder):
    source = data.open_source(f"folder:{folder}", "train")
    rest, held = data.hold_out(source, 0.25, seed=1)
    assert isinstance(rest, data.Source)
    assert (len(rest), len(held)) == (17, 6)
    origins = [
        [part[index].origin for index in range(len(part))] for part in (rest, held)
    ]
    assert sorted(origins[0] + origins[1]) == [source[k].origin for k in range(23)]
    assert held.class_names == source.class_names
    assert rest.fingerprint != held.fingerprint != source.fingerprint
    again = data.hold_out(source, 0.25, seed=1)[1]
    np.testing.assert_array_equal(again.indices, held.indices)
    assert not np.array_equal(
        data.hold_out(source, 0.25, seed=2)[1].indices, held.indices
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.001])
def test_holding_out_leaves_some_on_both_sides(folder, fraction):
    source = data.open_source(f"folder:{folder}", "train")
    with pytest.raises(ValueError, match="fraction: got"):
        data.hold_out(source, fraction)
