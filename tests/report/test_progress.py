"""The time left, from what runs cost and then from the clock."""

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
