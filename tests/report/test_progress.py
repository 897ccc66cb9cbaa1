"""The time left, from what runs cost and then from the clock."""

import pytest

from cnn_jax.report import progress


def test_time_left_follows_the_cost_and_then_the_clock(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    runs = [
        progress.PlannedRun(f"{kind}, seed {seed}", kind, cost)
        for kind, cost in (("small", 1), ("large", 4))
        for seed in range(2)
    ]
    bar = progress.RunProgress(runs)
    bar.begin()
    now[0] += 10
    bar.end("done")
    line = capsys.readouterr().out
    assert line == "[1/4] small, seed 0: done, 10 s; about 90 s left\n"
    bar.begin()
    bar.end("done", is_kept=True)
    assert capsys.readouterr().out == "[2/4] small, seed 1: done, kept\n"
    bar.begin()
    now[0] += 50
    bar.end("done")
    assert "about 50 s left" in capsys.readouterr().out
    bar.begin()
    now[0] += 50
    bar.end("done")
    assert "left" not in capsys.readouterr().out


def test_time_left_does_not_scale_what_compiling_took(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    runs = [
        progress.PlannedRun(f"{kind}, seed {seed}", kind, cost)
        for kind, cost in (("small", 1), ("large", 20), ("larger", 30))
        for seed in range(2)
    ]
    bar = progress.RunProgress(runs)
    bar.begin()
    now[0] += 8
    bar.compiled()
    now[0] += 1
    bar.end("done")
    # 1 + 2 x 20 + 2 x 30 seconds of training, and two kinds to compile.
    line = capsys.readouterr().out
    assert line == "[1/6] small, seed 0: done, 9 s; about 2 min left\n"
    assert bar._left(0.0) == 1 + 40 + 60 + 16
    bar.begin()
    now[0] += 1
    bar.end("done")
    bar.begin()
    now[0] += 8
    bar.compiled()
    now[0] += 5
    # Half of a run of cost 20 took 5 seconds beside its compilation.
    share = (1 + 1 + 5) / (1 + 1 + 10)
    assert bar._left(0.5) == pytest.approx(share * (10 + 20 + 60) + 8)
