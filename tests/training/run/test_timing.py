"""The stopwatch on a clock of its own, the trace, and the share of the peak."""

import dataclasses
import math
import pathlib
import types

import jax.numpy as jnp
import pytest

from cnn_jax.chips import PEAK_FLOPS
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.timing import (
    StepTrace,
    Stopwatch,
    model_flops_utilization,
)


class Clock:
    """A clock and a feed's waiting time, both moved by hand."""

    def __init__(self):
        self.time = 0.0
        self.waited = 0.0

    def watch(self):
        return Stopwatch(lambda: self.waited, lambda: self.time)


def test_intervals_count_training_alone():
    clock = Clock()
    watch = clock.watch()
    clock.time = 100.0  # compilation
    watch.start(0)
    clock.time, clock.waited = 104.0, 1.0
    assert watch.stop(4) == 4.0
    clock.time = 110.0
    assert watch.stop(6) == 6.0
    clock.time, clock.waited = 500.0, 7.0  # evaluation, which has waits of its own
    watch.start(6)
    clock.time, clock.waited = 500.5, 7.25
    watch.stop(7)
    assert watch.interval_step_seconds == [1.0, 3.0, 0.5]
    assert watch.seconds == 10.5
    assert watch.waited_seconds == 1.25


def test_an_interval_without_steps_does_not_count():
    clock = Clock()
    watch = clock.watch()
    watch.start(3)
    clock.time = 5.0
    assert watch.stop(3) == 0.0
    assert watch.interval_step_seconds == []
    assert all(map(math.isnan, watch.step_seconds().values()))


def test_percentiles():
    watch = Clock().watch()
    watch.interval_step_seconds = [float(n) for n in range(1, 102)]
    assert watch.step_seconds() == {"median": 51.0, "p90": 91.0, "p99": 100.0}


def test_utilization_is_the_models_own_arithmetic_over_the_peak():
    chip = types.SimpleNamespace(device_kind="TPU v4")
    # 4.1 G multiply-adds, 6 FLOPs each, 1000 images a second on two chips of 275 T.
    share = model_flops_utilization(4_100_000_000, 1000.0, [chip, chip])
    assert share == pytest.approx(6 * 4.1e12 / (2 * 275e12))
    assert model_flops_utilization(None, 1000.0, [chip]) is None
    unknown = types.SimpleNamespace(device_kind="abacus")
    assert model_flops_utilization(1, 1.0, [unknown]) is None
    assert all(peak > 1e13 for peak in PEAK_FLOPS.values())


def test_the_chosen_steps_are_traced(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: calls.append(path))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    trace = StepTrace((2, 4), str(tmp_path))
    seen = []
    for step in range(6):
        trace.at(step, jnp.zeros(()))
        seen.append(len(calls))
    trace.close()
    assert calls == [tmp_path / "profile", "stop"]
    assert seen == [0, 0, 1, 1, 2, 2]


def test_a_trace_is_where_the_run_is(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("jax.profiler.start_trace", calls.append)
    StepTrace((0, 1), "~/run").at(0, ())
    assert calls == [tmp_path / "run" / "profile"]


def test_a_trace_ends_with_the_run(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: calls.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    trace = StepTrace((2, 400), str(tmp_path))
    trace.at(2, ())
    trace.close()
    trace.close()
    assert calls == ["start", "stop"]
    # A run that was resumed behind the first step has nothing to end.
    StepTrace((2, 4), str(tmp_path)).at(4, ())
    assert calls == ["start", "stop"]


def test_a_run_leaves_its_trace(tiny_net, digits, with_run):
    config = with_run(epochs=1, profile_steps=(3, 5))
    result = fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    assert list((pathlib.Path(result.run_dir) / "profile").rglob("*.xplane.pb"))
    assert 0 < result.step_seconds_median <= result.step_seconds_p99
    assert result.flops_utilization is None


def test_a_trace_needs_a_place():
    config = TrainConfig(profile_steps=(3, 5))
    with pytest.raises(ValueError, match=r"profile_steps: got .*and a run_dir"):
        config.validate()
    with pytest.raises(ValueError, match="profile_steps"):
        dataclasses.replace(config, profile_steps=(5, 3), run_dir="x").validate()
