"""The benchmark of collectives counts what the compiled programs hold."""

import json

import pytest

HLO = """
  %all-reduce.1 = f32[8]{0} all-reduce(%p), channel_id=1, to_apply=%add
  %ar = (f32[8]{0}, /*index=1*/f32[2]{0}) all-reduce-start(%p, %q), channel_id=2
  %done = (f32[8]{0}, f32[2]{0}) all-reduce-done(%ar)
  %g = bf16[8,4]{1,0} all-gather(%p), dimensions={0}
  %x = f32[8]{0} add(%all-reduce.1, %all-reduce.1)
"""


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("collectives")


def test_starts_count_and_ends_and_uses_do_not(benchmark):
    assert benchmark.count_collectives(HLO) == {
        "all_reduces": 2,
        "all_gathers": 1,
        "reduce_scatters": 0,
        "all_to_alls": 0,
        "permutes": 0,
    }


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
