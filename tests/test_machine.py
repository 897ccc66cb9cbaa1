"""The processor, as it is recorded."""

import os
import platform

import pytest

from cnn_jax import machine

X86 = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse2 smep avx2 smap fma amx_bf16 f16c avx512_vnni bmi2 aes
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve2 sme bf16 i8mm crc32\n"


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        (X86, "Some CPU @ 2 GHz", "amx_bf16 avx2 avx512_vnni bmi2 f16c fma sse2"),
        (ARM, None, "asimd bf16 i8mm sme sve2"),
    ],
)
def test_what_is_computed_with_is_told_from_the_rest(
    monkeypatch, text, model, expected
):
    monkeypatch.setattr(machine.pathlib.Path, "read_text", lambda *_: text)
    expected_model = model or platform.processor() or platform.machine()
    assert machine.cpu_model() == expected_model
    assert machine.vector_instructions() == expected.split()


def test_where_the_system_does_not_say(monkeypatch):
    def read_text(path):
        raise OSError

    monkeypatch.setattr(machine.pathlib.Path, "read_text", read_text)
    assert machine.cpu_model()
    assert machine.vector_instructions() == []


def test_only_cores_that_may_be_used_count():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert machine.num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
