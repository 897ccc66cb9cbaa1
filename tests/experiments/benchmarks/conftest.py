"""Benchmarks are programs that find their neighbours beside them."""

import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[3] / "experiments" / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch, load_experiment):
    """Imports `experiments/benchmarks/NAME.py`."""

    def load(name):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        return load_experiment(f"benchmarks/{name}")

    return load
