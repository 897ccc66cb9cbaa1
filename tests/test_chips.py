"""The table of chips agrees with itself and with what jax knows."""

import pytest

from cnn_jax.chips import CHIPS, PEAK_FLOPS


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_numbers_are_of_their_size(chip):
    assert 0.6e9 < chip.clock < 2.4e9
    assert 50 < chip.ridge < 700
    assert chip.num_dimensions in (2, 3)
    assert chip.hbm_bytes >= 16 * 2**30
    assert chip.ici_bandwidth is None or chip.ici_bandwidth < chip.hbm_bandwidth


@pytest.mark.parametrize(
    ("name", "megahertz"), [("v2", 700), ("v3", 940), ("v4", 1050), ("v5e", 1500)]
)
def test_clocks_are_near_the_published_ones(name, megahertz):
    assert CHIPS[name].clock == pytest.approx(megahertz * 1e6, rel=0.02)


def test_a_device_has_its_share_of_a_chip():
    assert PEAK_FLOPS["TPU v3"] == CHIPS["v3"].peak_flops / 2
    assert PEAK_FLOPS["TPU v5 lite"] == PEAK_FLOPS["TPU v5e"] == 197e12
