"""Runs killed again and again end equal to one that was left alone."""

import random

import pytest

from cnn_jax.checkpoint import points
from faults import sweep
from faults.runs import VARIANTS

SLOW_SEEDS = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory for runs that share compiled programs."""
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def server(work):
    server = sweep.start_server(work)
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected(server, work):
    """Returns a function from a variant to its undisturbed end."""
    ends = {}

    def get(variant):
        if variant not in ends:
            ends[variant] = sweep.leave_alone(server, work, variant)
        return ends[variant]

    return get


@pytest.mark.parametrize(
    "seed",
    [
        seed if seed == 1 else pytest.param(seed, marks=pytest.mark.slow)
        for seed in range(SLOW_SEEDS)
    ],
)
def test_killed_until_done(server, work, expected, seed):
    variant = sweep.variant_of(seed)
    outcome = sweep.kill_until_done(server, work, seed, expected(variant))
    assert outcome.problem == ""
    assert outcome.kills


def test_all_kinds_of_kills_and_runs_are_drawn():
    drawn = [sweep.draw_kill(random.Random(seed), 36)[0] for seed in range(200)]
    assert {"at a random time", "behind a random step", *points.POINTS} == {*drawn}
    assert {sweep.variant_of(seed) for seed in range(SLOW_SEEDS)} == {*VARIANTS}
