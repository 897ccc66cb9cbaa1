"""Experiments are programs, not a package: they are loaded by their path."""

import importlib.util
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="session")
def experiments_directory() -> pathlib.Path:
    """The directory that experiments import each other from."""
    return EXPERIMENTS


@pytest.fixture(scope="session")
def load_experiment() -> Callable[[str], ModuleType]:
    """Imports `experiments/NAME.py`."""

    def load(name: str) -> ModuleType:
        path = EXPERIMENTS / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"experiments_{name}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load
