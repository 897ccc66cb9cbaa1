"""Answers of the compiler are kept, found again, and made again where damaged."""

import json

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.planning import compiled

DEVICES = jax.devices()[:1]


def lower(factor=2.0, scope="double"):
    def run(x):
        with jax.named_scope(scope):
            return factor * x

    return jax.jit(run).lower(jax.ShapeDtypeStruct((4,), jnp.float32))


def _from_elsewhere():
    return lower()


def test_an_answer_is_kept(tmp_path):
    answer, was_cached = compiled.compile_program(lower(), DEVICES, cache=tmp_path)
    assert not was_cached
    assert "ENTRY" in answer.text
    assert answer.memory["arguments"] == 16
    assert answer.versions["jax"] == jax.__version__
    again, was_cached = compiled.compile_program(lower(), DEVICES, cache=tmp_path)
    assert was_cached
    assert again == answer
    other, was_cached = compiled.compile_program(lower(3.0), DEVICES, cache=tmp_path)
    assert not was_cached
    assert other.text != answer.text


def test_without_a_cache_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _, was_cached = compiled.compile_program(lower(), DEVICES, cache=None)
    assert not was_cached
    assert not list(tmp_path.iterdir())


def test_the_key_follows_program_names_devices_and_flags(monkeypatch):
    key = compiled.program_key(lower(), DEVICES)
    assert key == compiled.program_key(_from_elsewhere(), DEVICES)
    assert key != compiled.program_key(lower(3.0), DEVICES)
    assert key != compiled.program_key(lower(scope="twice"), DEVICES)
    assert key != compiled.program_key(lower(), jax.devices()[1:2])
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_something=1")
    assert key != compiled.program_key(lower(), DEVICES)


def _change(content, **changes):
    return json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"[]",
        lambda content: _change(content, format=compiled.FORMAT + 1),
        lambda content: _change(content, text="not base 85 \\"),
        lambda content: _change(content, text=json.loads(content)["text"][:-20]),
        lambda content: _change(content, text=""),
        lambda content: _change(content, memory=None),
        lambda content: _change(content, unknown=1),
        lambda content: b"\0" * len(content),
    ],
)
def test_a_damaged_file_is_made_again(damage, tmp_path):
    answer, _ = compiled.compile_program(lower(), DEVICES, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again, was_cached = compiled.compile_program(lower(), DEVICES, cache=tmp_path)
    assert not was_cached
    assert again.memory == answer.memory
    assert "ENTRY" in again.text
    assert compiled.compile_program(lower(), DEVICES, cache=tmp_path)[1]


class Lowered:
    """A stand-in for a program that the compiler refuses."""

    def __init__(self, message):
        self._message = message

    def as_text(self, debug_info=False):
        return self._message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self._message)


def test_too_little_memory_is_an_answer(tmp_path):
    message = "RESOURCE_EXHAUSTED: Ran out of memory. Used 17.53G of 15.75G hbm."
    answer, _ = compiled.compile_program(Lowered(message), DEVICES, cache=tmp_path)
    assert (answer.refusal, answer.text, answer.memory) == (message, "", {})
    again, was_cached = compiled.compile_program(
        Lowered(message), DEVICES, cache=tmp_path
    )
    assert was_cached
    assert again == answer


class Uncompiled(Lowered):
    """A program whose compilation would be for nothing."""

    def compile(self):
        raise AssertionError("it was compiled")


def test_a_cache_is_checked_before_compiling(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for cache, kind in (
        (file, OSError),
        (file / "x", OSError),
        ("", ValueError),
        ("~nobody_of_this_name/x", ValueError),
    ):
        with pytest.raises(kind, match=r"cache: got|file"):
            compiled.compile_program(Uncompiled("x"), DEVICES, cache=cache)

    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(compiled.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError):
        compiled.compile_program(Uncompiled("x"), DEVICES, cache=tmp_path)


def test_an_answer_that_cannot_be_kept_is_there_all_the_same(
    tmp_path, monkeypatch, capsys
):
    def fail(path, *, shared):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(compiled.files, "whole_file", fail)
    answer, was_cached = compiled.compile_program(lower(), DEVICES, cache=tmp_path)
    assert "ENTRY" in answer.text
    assert not was_cached
    assert "could not be kept" in capsys.readouterr().err


def test_another_failure_is_an_error(tmp_path):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiled.compile_program(Lowered("INTERNAL: x"), DEVICES, cache=tmp_path)
    assert not list(tmp_path.iterdir())
