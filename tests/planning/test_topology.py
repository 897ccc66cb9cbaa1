"""Topologies are read, refused with a sentence, and their devices found."""

import importlib.util

import jax
import pytest

from cnn_jax.planning import topology as slices


@pytest.mark.parametrize(
    ("text", "chips", "platform"),
    [
        ("v5e:2x4", 8, "tpu"),
        ("v4:8x8x16", 1024, "tpu"),
        ("tpu7x:2x2x1", 4, "tpu"),
        ("cpu:8", 8, "cpu"),
    ],
)
def test_reads_a_topology(text, chips, platform):
    found = slices.parse_topology(text)
    assert (found.name, found.num_chips, found.platform) == (text, chips, platform)
    assert (found.chip is None) == (platform == "cpu")


@pytest.mark.parametrize(
    "text",
    [
        *("", "v5e", "v5e:", "v5e:0x4", "v5e:2x4x1x1", "v9:2x2", "cpu:2x2", "cpu:0"),
        *("v5e:16", "V5E:2x2", "v5e:2x2 ", "v5e:-2x2", "v5e:99999999x2", "gpu:8"),
    ],
)
def test_refuses_what_is_none(text):
    with pytest.raises(ValueError, match=r"topology: got .*expected one of v2, v3"):
        slices.parse_topology(text)


def test_refuses_a_slice_larger_than_a_pod():
    with pytest.raises(ValueError, match=r"512 chips; expected at most 256"):
        slices.parse_topology("v5e:16x32")


@pytest.mark.parametrize("text", ["v2:4x4x4", "v3:2x2x2", "v5e:4x4x4", "v6e:1x2x2"])
def test_refuses_more_dimensions_than_slices_have(text):
    with pytest.raises(ValueError, match=r"3 dimensions; expected 2, as slices of"):
        slices.parse_topology(text)
    assert slices.parse_topology("v5e:2x2x1").num_chips == 4


def test_cpus_are_those_of_the_process():
    assert (
        list(slices.find_devices(slices.parse_topology("cpu:2"))) == jax.devices()[:2]
    )
    with pytest.raises(ValueError, match="8 CPU devices already"):
        slices.find_devices(slices.parse_topology("cpu:9"))


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "cnn_jax\[tpu\]"'):
        slices.find_devices(slices.parse_topology("v5e:2x2"))


def test_the_environment_that_is_there_stays(monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v4-8")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    # What it sets is taken away again with the rest.
    for name in ("TPU_WORKER_HOSTNAMES", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setenv(name, "given")
    monkeypatch.setitem(slices.os.environ, "TPU_SKIP_MDS_QUERY", "0")
    slices.prepare_environment()
    assert slices.os.environ["TPU_ACCELERATOR_TYPE"] == "v4-8"
    assert slices.os.environ["TPU_SKIP_MDS_QUERY"] == "0"
