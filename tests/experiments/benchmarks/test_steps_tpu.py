"""The benchmark of whole steps compares what the compiler says of two programs."""

import json

import jax
import pytest

HLO = """
ENTRY main {
  %ar = f32[8]{0} all-reduce(%p), {"estimated_cycles":"20"}
  %w = reduce-window(%x)
  %y = fusion(%x), {"estimated_cycles":"100"}
}
"""


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("steps_tpu")


class Program:
    """A stand-in for a compiled program, with the members that the benchmark reads."""

    temp_size_in_bytes = 7

    def as_text(self):
        return HLO

    def cost_analysis(self):
        return {"bytes accessed": 5.0}

    def memory_analysis(self):
        return self


def test_describes_a_program(benchmark):
    assert benchmark.describe(Program()) == {
        "cycles": 120,
        "bytes": 5,
        "temporaries": 7,
        "all_reduces": 1,
        "without_estimate": 1,
    }


def result_of(ours, stock):
    names = ("cycles", "bytes", "temporaries", "all_reduces", "without_estimate")
    sides = {"ours": ours, "stock": stock}
    return {"model": "resnet50", "strategy": "jit"} | {
        f"{side}_{name}": value
        for side, values in sides.items()
        for name, value in zip(names, values, strict=True)
    }


@pytest.mark.parametrize(
    ("ours", "excess"),
    [
        ((100, 100, 100, 3, 1), None),
        ((90, 900, 900, 2, 1), None),
        ((102, 100, 100, 3, 1), "resnet50, jit: 102 cycles, stock 100"),
        ((90, 100, 100, 4, 1), "resnet50, jit: 4 all reduces, stock 3"),
        ((90, 100, 100, 3, 2), "resnet50, jit: 2 without estimate, stock 1"),
    ],
)
def test_names_what_needs_more_than_stock(benchmark, ours, excess):
    results = [result_of(ours, (100, 100, 100, 3, 1))]
    found = list(benchmark.find_excesses(results, 1.01, ["cycles"]))
    assert found == ([] if excess is None else [excess])


def test_every_quantity_can_be_looked_at(benchmark):
    results = [result_of((101, 101, 101, 0, 0), (100, 100, 100, 0, 0))]
    assert len(list(benchmark.find_excesses(results, 1.0, benchmark.QUANTITIES))) == 3


@pytest.mark.slow
def test_compiles_writes_and_judges(benchmark, monkeypatch, tmp_path, capsys):
    """On CPUs, whose compiler estimates no cycles."""
    monkeypatch.setattr(benchmark.slices, "prepare_environment", lambda: None)
    monkeypatch.setattr(
        benchmark.slices, "find_devices", lambda topology: jax.devices()[:2]
    )
    monkeypatch.setattr(benchmark, "compiler_version", lambda: "none")
    monkeypatch.setattr(benchmark, "sum_cycles", lambda text: (len(text), 0))
    path = tmp_path / "steps.json"
    options = ["--image-size", "32", "--batch", "1", "--json", str(path)]
    assert benchmark.main(["lenet5", *options, "--at-most", "0.001"]) == 1
    (result,) = json.loads(path.read_text())["records"]
    assert result["ours_cycles"] != result["stock_cycles"]
    assert result["ours_all_reduces"] >= 1
    shown = capsys.readouterr()
    assert "lenet5, jit: " in shown.out
    assert shown.err.startswith("Compiling 1 times two steps")
