"""Searches, on plans of a made-up compiler."""

import dataclasses
import shlex

import pytest

from cnn_jax.planning.search import (
    command_of,
    find_best,
    find_frontier,
    find_largest_batch,
    make_candidates,
)
from cnn_jax.training import TrainConfig


@pytest.fixture
def made_up(plan):
    """Makes plans whose memory and cycles follow from the batch."""

    def make(batch, *, limit=100, cycles_per_image=10, offset=4, **settings):
        total = offset + batch
        memory = {
            "batch": 0,
            "activations": batch,
            "temporaries": 0,
            "total": total,
            "available": limit,
        }
        rate = 1e6 / cycles_per_image
        return dataclasses.replace(
            plan,
            settings={**plan.settings, "batch_size": batch, **settings},
            devices={**plan.devices, "images": batch // 2},
            fits=total <= limit,
            memory=memory,
            cycles=cycles_per_image * batch // 2,
            speed={**plan.speed, "images_per_second": rate},
        )

    return make


@pytest.mark.parametrize("start", [2, 16, 64, 256])
@pytest.mark.parametrize("limit", [20, 36, 37, 100, 2000])
def test_ends_with_one_that_fits_and_its_double_that_does_not(made_up, start, limit):
    plans = list(find_largest_batch(lambda n: made_up(n, limit=limit), start, 2))
    batches = {plan.settings["batch_size"]: plan.fits for plan in plans}
    assert len(batches) == len(plans)  # none is compiled twice
    largest = max(batch for batch, fits in batches.items() if fits)
    assert largest + 4 <= limit < 2 * largest + 4
    assert batches[2 * largest] is False
    assert len(plans) <= 9


def test_a_guess_that_is_wrong_is_corrected(made_up):
    """Memory that grows faster than the batch."""
    make = made_up
    plans = list(
        find_largest_batch(lambda n: make(n, limit=100, offset=n * n // 50), 2, 2)
    )
    fitting = [p.settings["batch_size"] for p in plans if p.fits]
    refused = [p.settings["batch_size"] for p in plans if not p.fits]
    assert max(fitting) * 2 == min(refused)


def test_ends_where_none_fits(made_up):
    plans = list(find_largest_batch(lambda n: made_up(n, limit=3), 16, 4))
    assert [p.settings["batch_size"] for p in plans] == [16, 8, 4]
    assert not any(p.fits for p in plans)


def test_the_best_is_the_fastest_that_fits(made_up):
    plans = [
        made_up(16, cycles_per_image=10),
        made_up(32, cycles_per_image=7),
        made_up(64, cycles_per_image=5, limit=10),
        made_up(8, cycles_per_image=9),
        made_up(4, cycles_per_image=8),
    ]
    assert find_best(plans) == 1
    assert find_frontier(plans) == [1, 4]
    assert find_best(plans[2:3]) is None
    assert find_frontier(plans[2:3]) == []


def test_without_cycles_the_smallest_is_the_best(plan):
    larger = dataclasses.replace(plan, memory={**plan.memory, "total": 10**12})
    assert find_best([larger, plan]) == 1
    assert find_frontier([larger, plan]) == []


def test_memory_is_compared_by_the_image_where_devices_share_one(plan):
    shared = {**plan.devices, "count": 4, "images": 0.5}
    total = 4 * plan.memory["total"]
    one, two = (
        dataclasses.replace(
            plan,
            devices=shared,
            settings={**plan.settings, "batch_size": batch},
            memory={**plan.memory, "total": total},
        )
        for batch in (2, 3)
    )
    assert find_best([one, two]) == 1


def test_candidates_are_every_combination_with_the_default_first():
    base = TrainConfig(model="lenet5")
    choices = {"batch_size": [8, 4], "remat": [None, True]}
    found = make_candidates(base, ["cpu:2", "cpu:4"], choices)
    assert len(found) == 8
    first = found[0]
    assert (first.topology, first.config.batch_size, first.config.remat) == (
        *("cpu:2", 8, None),
    )


def test_the_command_says_all_settings(made_up):
    line = command_of(made_up(8, remat=True, mesh="data=2"), ["--num-classes", "7"])
    words = shlex.split(line)
    assert words[:3] == ["cnn-jax", "plan", "lenet5"]
    assert words[words.index("--batch-size") + 1] == "8"
    assert words[words.index("--mesh") + 1] == "data=2"
    assert "--remat" in words
    assert "--reduce-dtype" not in words
    assert words[-2:] == ["--num-classes", "7"]
