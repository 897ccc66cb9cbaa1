"""The benchmark of an epoch: what its ratio is of, and that it runs."""

import json

import pytest


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("epoch")


def test_an_epoch_is_held_against_the_steps_around_it(benchmark):
    now, bare = [0.0], iter([4.0, 6.0, 10.0])

    def bare_seconds():
        seconds = next(bare)
        now[0] += seconds
        return seconds

    said = []
    laps = benchmark.Laps(
        bare_seconds, 2, lambda *seconds: said.append(seconds), lambda: now[0]
    )
    for epoch in range(3):
        for step in (1, 2):
            now[0] += 5.0
            laps({"event": "step", "step": 2 * epoch + step}, None)
        now[0] += 100.0  # evaluation
        laps({"event": "epoch", "step": 2 * epoch + 2}, None)
    assert laps.epochs == [10.0, 10.0]
    assert laps.ratios() == [10 / 5, 10 / 8]
    assert said == [(10.0, 6.0), (10.0, 10.0)]


def test_mistakes_are_named(benchmark, capsys):
    for arguments in (["--model", "resnet21"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            benchmark.main(arguments)
        assert arguments[1] in capsys.readouterr().err


@pytest.mark.nightly
def test_an_epoch_runs(benchmark, tmp_path, capsys):
    path = tmp_path / "epoch.json"
    options = ["--batch", "8", "--steps", "2", "--rounds", "2", "--json", str(path)]
    # Far above what it may be, and far below.
    assert benchmark.main([*options, "--at-most", "10"]) == 0
    assert benchmark.main([*options, "--at-most", "0.1"]) == 1
    (result,) = json.loads(path.read_text())["records"]
    assert 0.2 < result["ratio"] < 5
    assert len(result["every_epoch_seconds"]) == 2
    assert len(result["every_bare_seconds"]) == 3
    assert "resnet20" in capsys.readouterr().out
