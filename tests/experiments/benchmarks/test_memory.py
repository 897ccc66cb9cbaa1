"""The benchmark of freed memory: what its figures are of, and that it runs."""

import json

import pytest


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("memory")


def test_growth_is_from_the_first_steps_to_the_most(benchmark):
    row = {"after_warm_up": 100.0, "after_steps": 120.0, "after_runs": 110.0}
    assert benchmark.growth(row) == 1.2
    assert benchmark.growth(row | {"after_runs": 150.0}) == 1.5
    assert benchmark.growth(row | {"after_runs": None}) == 1.2


@pytest.mark.parametrize(
    "arguments",
    [["--models", "resnet21"], ["--steps", "20"], ["--runs", "-1"], ["--batch", "0"]],
)
def test_mistakes_are_named(benchmark, capsys, arguments):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.nightly
def test_it_runs(benchmark, tmp_path):
    path = tmp_path / "memory.json"
    options = ["--models", "lenet5", "--batch", "512", "--steps", "24", "--runs", "1"]
    options += ["--round-steps", "2", "--json", str(path)]
    assert benchmark.main([*options, "--at-most", "100"]) == 0
    kept, anew = json.loads(path.read_text())["records"]
    assert (kept["memory"], anew["memory"]) == ("kept", "given back")
    assert min(kept["ratio"], anew["ratio"]) > 0
    for row in (kept, anew):
        assert row["steps"] == 24
        assert 10 < row["after_warm_up"] < 10_000
        assert row["after_runs"] > 10
