"""The climate every test runs in: eight fake CPU devices, no silent promotion."""

import importlib.metadata
import os

# Before jax is imported: the flags are read once. The platform is pinned since a
# machine with libtpu installed but no TPU attached would report errors. Most of a
# test's time is XLA's compiler, for programs that run once or twice: level 1 halves it.
# (Level 0 would be quicker still, but the gradient of a maximum is NaN there.) Loops
# from LLVM's builder rather than MLIR's passes, in one piece, halve it again, on
# versions of XLA that still have both. Flags that are set already win: on the second
# Python, CI tests the kernels at XLA's 3.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A worker that runs a thousand tests should not keep the most memory of any of them.
os.environ.setdefault("CNN_JAX_KEEP_MEMORY", "0")
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=1",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else "",
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    ]
)

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Enables 64-bit types for the duration of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def generator() -> np.random.Generator:
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)
