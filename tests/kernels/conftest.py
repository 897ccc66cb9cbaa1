"""Kernels, layers and models are tested without implicit dtype promotion."""

import importlib.util
import pathlib
import sys

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def light_compilation():
    """Compiles a test's programs with little optimisation, several times faster.

    For float64 comparisons, whose small programs run once; not where the programs
    should be those that users run.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def proofs():
    """The module `test_proofs`: each kernel's textbook gradients and properties.

    Test modules cannot import each other under pytest's importlib mode.
    """
    path = pathlib.Path(__file__).with_name("test_proofs.py")
    spec = importlib.util.spec_from_file_location("cnn_jax_proofs", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
