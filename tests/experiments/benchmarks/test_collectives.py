"""The benchmark of collectives counts what the compiled programs hold."""

import json

import pytest


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("collectives")


def test_counts_a_strategy(benchmark, monkeypatch, tmp_path, capsys):
    # Here JAX has read its flags already.
    monkeypatch.setattr(benchmark, "prepare_platform", lambda options: None)
    path = tmp_path / "collectives.json"
    arguments = ["lenet5", "--image-size", "32", "--batch", "1", "--plans", "bfloat16"]
    options = ["--at-most", "0", "--json", str(path)]
    assert benchmark.main([*arguments, *options]) == 1  # there is at least one
    (result,) = json.loads(path.read_text())["records"]
    assert 1 <= result["all_reduces"] <= 2
    assert result["all_gathers"] == result["permutes"] == 0
    assert result["kept_bytes"] == 2 * 4 * 61_706
    assert "lenet5 on 8 CPUs" in capsys.readouterr().out


def test_a_plan_that_is_not_there_is_an_error(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "prepare_platform", lambda options: None)
    assert benchmark.main(["lenet5", "--plans", "shardmap"]) == 2
    assert "--plans 'shardmap': no plan" in capsys.readouterr().err
