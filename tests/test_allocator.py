"""Memory that the process keeps: fewer page faults, and no more memory in the long run.

Each test starts a process of its own, since the settings last until a process ends.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys

import jax
import pytest

from cnn_jax import allocator
from cnn_jax.allocator import VARIABLE

pytestmark = pytest.mark.skipif(not allocator._is_glibc(), reason="no glibc here")

STEPS = """
import ctypes, json, resource, sys
import jax, jax.numpy as jnp
from cnn_jax import allocator

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of one size
kept = eval(sys.argv[1])

step = jax.jit(lambda x: x + 1)
x = jnp.zeros(2**23)  # glibc comes to keep what is smaller by itself
faults = []
for _ in range(50):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, allocator.keeps_memory(), sorted(faults[-25:])[12]]))
"""
"""Prints what an expression says, whether memory is kept, and the median of the pages
that a step gets from the system once the process has all that it needs."""

PAGES = 2**23 * 4 // resource.getpagesize()
"""Of an array that a step makes."""


def in_process(expression, **variables):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", VARIABLE: ""} | variables
    command = [sys.executable, "-c", STEPS, expression]
    return json.loads(subprocess.check_output(command, env=environment, text=True))


def test_a_step_takes_the_memory_that_the_last_one_freed():
    kept, keeps, pages = in_process("allocator.keep_memory()")
    assert (kept, keeps) == (True, True)
    assert pages < PAGES / 10


def test_nothing_is_kept_by_importing():
    _, keeps, pages = in_process("None")
    assert not keeps
    assert pages > PAGES / 2


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("allocator.keep_memory()", "0"),
        ("allocator.keep_memory()", " Off "),
        ("allocator.keep_memory(False)", ""),
    ],
)
def test_it_can_be_switched_off(expression, value, monkeypatch):
    monkeypatch.setattr(allocator, "_kept", [])
    monkeypatch.setenv(VARIABLE, value)
    assert eval(expression) is False
    assert allocator.keeps_memory() is False


def test_the_variable_goes_before_what_is_wanted():
    found = in_process("allocator.keep_memory(False)", **{VARIABLE: "1"})
    assert found[:2] == [True, True]


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_nothing_is_set_where_the_devices_are_others(platform, monkeypatch):
    monkeypatch.setattr(allocator, "_kept", [])
    monkeypatch.setattr(allocator, "_may_find_accelerators", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    with jax_platforms(""):
        assert allocator.keep_memory() is False
    with jax_platforms("cuda,cpu"):
        assert allocator.keep_memory() is False


@pytest.mark.parametrize("named", ["", "cpu", "cpu,cuda"])
def test_the_backend_is_not_started_where_it_must_be_a_cpu(named, monkeypatch):
    """Its threads may allocate at once, and have arenas of their own from then on."""
    monkeypatch.setattr(allocator, "_may_find_accelerators", lambda: False)
    monkeypatch.setattr(jax, "default_backend", None)
    with jax_platforms(named):
        assert allocator._computes_on_cpu()


@pytest.mark.parametrize("name", ["PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH"])
def test_libraries_of_accelerators_may_be_named(name, monkeypatch):
    monkeypatch.setenv(name, "cuda:/usr/lib/plugin.so")
    assert allocator._may_find_accelerators()


@contextlib.contextmanager
def jax_platforms(names):
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", names)
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("found", [None, "musl", KeyError])
def test_nothing_is_set_without_glibc(found, monkeypatch):
    def confstr(name):
        if found is KeyError:
            raise ValueError("unrecognized configuration name")
        return found

    monkeypatch.setattr(allocator, "_kept", [])
    monkeypatch.setattr(os, "confstr", confstr)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert allocator.keep_memory() is False
