"""Benchmarks are programs that find their neighbours beside them."""

import pathlib

import flax.linen as nn
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[3] / "experiments" / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch, load_experiment):
    """Imports `experiments/benchmarks/NAME.py`."""

    def load(name):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        return load_experiment(f"benchmarks/{name}")

    return load


@pytest.fixture
def called_modules():
    """The types of the modules called meanwhile, wherever they stand."""
    types = set()

    def record(next_call, args, kwargs, context):
        types.add(type(context.module))
        return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
        yield types
