"""Runs killed again and again end equal to one that was left alone."""

import random

import pytest
from helpers.quick import nightly_except

from cnn_jax.checkpoint import points
from faults import sweep
from faults.runs import VARIANTS

SEEDS = range(20)


@pytest.fixture(scope="module")
def expected(runner, tmp_path_factory):
    """Returns a function from a variant to its undisturbed end."""
    ends, work = {}, tmp_path_factory.mktemp("expected")

    def get(variant):
        if variant not in ends:
            ends[variant] = sweep.leave_alone(runner, work, variant)
        return ends[variant]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("seed", nightly_except(SEEDS[:4], SEEDS))
def test_killed_until_done(runner, tmp_path, expected, seed):
    variant = sweep.variant_of(seed)
    outcome = sweep.kill_until_done(runner, tmp_path, seed, expected(variant))
    assert outcome.problem == ""
    assert outcome.kills or outcome.stops


def test_all_kinds_of_kills_and_runs_are_drawn():
    drawn = [sweep.draw_kill(random.Random(seed), 36)[0] for seed in range(200)]
    times = {"at a random time", "behind a random step", "while it stopped"}
    assert times | {sweep.STARTING, *points.POINTS} == {*drawn}
    assert {sweep.variant_of(seed) for seed in SEEDS} == {*VARIANTS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", nightly_except([sweep.STARTING], ["at a random time", sweep.STARTING])
)
def test_a_kill_behind_the_end_is_moved_forward(
    runner, tmp_path, expected, kind, monkeypatch
):
    late = {"delay": 30.0}
    late |= {"number": 15} if kind == sweep.STARTING else {"group": False}
    monkeypatch.setattr(sweep, "MOST_KILLS", 1)
    monkeypatch.setattr(sweep, "draw_kill", lambda *arguments: (kind, late))
    outcome = sweep.kill_until_done(runner, tmp_path, 0, expected("resident"))
    assert outcome.problem == ""
    assert outcome.kills or outcome.stops
