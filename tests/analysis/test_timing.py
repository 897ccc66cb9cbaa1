"""The timing harness, driven by a clock that the timed functions advance."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.analysis import timing


class FakeClock:
    """Time passes only inside the functions that it makes."""

    def __init__(self):
        self.now = 100.0
        self.calls = []

    def __call__(self):
        return self.now

    def function(self, name, *costs):
        """A function whose n-th call takes `costs[n]`, the last cost for ever."""
        remaining = list(costs)

        def call():
            self.calls.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call


def test_statistics_of_known_rounds():
    measured = timing.Timing((5.0, 1.0, 2.0, 4.0, 3.0), 1, 9.0)
    assert measured.median == 3.0
    assert measured.minimum == 1.0
    assert measured.quartiles == (2.0, 4.0)
    assert timing.Timing((2.0,), 1, 9.0).quartiles == (2.0, 2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        measured.calls_per_round = 2


def test_compilation_and_warm_up_are_not_counted():
    clock = FakeClock()
    functions = {"slow start": clock.function("slow start", 50.0, 20.0, 3.0)}
    measured = timing.time_interleaved(functions, repeats=4, clock=clock)["slow start"]
    assert measured.first_call_seconds == 50.0
    assert measured.seconds == (3.0,) * 4


def test_rounds_interleave_and_alternate_their_order():
    clock = FakeClock()
    functions = {name: clock.function(name, 1.0) for name in "abc"}
    measured = timing.time_interleaved(functions, repeats=3, clock=clock)
    assert "".join(clock.calls) == "aabbcc" + "abc" + "cba" + "abc"
    assert list(measured) == ["a", "b", "c"]


def test_quick_functions_are_called_until_the_round_is_long_enough():
    clock = FakeClock()
    functions = {
        "quick": clock.function("quick", 0.25),
        "slow": clock.function("slow", 8.0),
        "free": clock.function("free", 0.0),
    }
    measured = timing.time_interleaved(
        functions, repeats=2, min_seconds=1.0, clock=clock
    )
    assert measured["quick"].calls_per_round == 4
    assert measured["slow"].calls_per_round == 1
    assert measured["quick"].seconds == (0.25, 0.25)
    assert clock.calls.count("quick") == 2 + 2 * 4
    assert 1 < measured["free"].calls_per_round <= 1000


def test_max_seconds_ends_the_rounds_early_but_not_before_the_first():
    clock = FakeClock()
    functions = {"a": clock.function("a", 3.0), "b": clock.function("b", 2.0)}
    measured = timing.time_interleaved(
        functions, repeats=100, max_seconds=11.0, clock=clock
    )
    assert [len(one.seconds) for one in measured.values()] == [3, 3]
    measured = timing.time_interleaved(
        functions, repeats=100, max_seconds=0.0, clock=clock
    )
    assert [len(one.seconds) for one in measured.values()] == [1, 1]


def test_waits_until_results_are_ready(monkeypatch):
    waited_for = []
    monkeypatch.setattr(jax, "block_until_ready", waited_for.append)
    result = jnp.ones(3)
    timing.time_interleaved({"f": lambda: {"y": result}}, repeats=1, min_seconds=0.0)
    assert len(waited_for) == 3  # the first call, the warm-up, one round
    assert all(tree["y"] is result for tree in waited_for)


@pytest.mark.parametrize(
    ("functions", "options", "message"),
    [
        ({}, {}, "functions: got none"),
        ({"f": int}, {"repeats": 0}, "repeats: got 0"),
        ({"f": int}, {"warm_up": 0}, "warm_up: got 0"),
    ],
)
def test_says_what_is_wrong(functions, options, message):
    with pytest.raises(ValueError, match=message):
        timing.time_interleaved(functions, **options)
