"""Kernels, layers and models promise results without implicit dtype promotion."""

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
