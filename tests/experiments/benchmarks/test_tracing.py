"""The benchmark of tracing measures each model once and keeps to its limits."""

import json

import pytest


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("tracing")


def test_measures_and_judges(benchmark, tmp_path, capsys):
    path = tmp_path / "tracing.json"
    arguments = ["lenet*", "--repeats", "1", "--json", str(path)]
    assert benchmark.main([*arguments, "--at-most-all", "1000"]) == 0
    report = json.loads(path.read_text())
    assert [result["model"] for result in report["records"]] == ["lenet5"]
    assert 0 < report["total_seconds"] == report["records"][0]["seconds"]
    assert len(report["import_seconds"]) == 1
    assert benchmark.main([*arguments, "--at-most-import", "0.001"]) == 1
    assert "eval_shape of 1 models" in capsys.readouterr().out


def test_refuses_a_pattern_without_models(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["nothing*"])
    assert "nothing*" in capsys.readouterr().err
