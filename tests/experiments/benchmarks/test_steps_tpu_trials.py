"""The trials put other forms into the kernels, and take them out again."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool, Window


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("steps_tpu_trials")


def traced(model):
    """Returns the program of a kernel that the variants of a network change."""
    x, vector = jnp.ones((2, 8, 8, 32), jnp.bfloat16), jnp.ones(32)
    if model == "resnet50":

        def loss_fn(x, pool):
            y, *_ = K.batch_norm(
                *(x, vector, vector),
                epsilon=1e-3,
                activation=K.relu,
                pool=pool,
                shift=vector,
            )
            return jnp.sum(y.astype(jnp.float32))

        with K.target_platform("tpu"):
            gradient = jax.grad(
                lambda x: loss_fn(x, MaxPool(3, 2, 1)) + loss_fn(x, None)
            )
            return str(jax.make_jaxpr(gradient)(x))
    tpu = importlib.import_module("cnn_jax.kernels.platforms.tpu")
    window = Window.resolve((8, 8), (3, 3), padding="SAME")
    programs = []
    for channels in (32, 144):
        x, w = jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, 1, channels))
        convolve = functools.partial(
            tpu.conv, window=window, groups=channels, precision=None
        )
        programs.append(str(jax.make_jaxpr(convolve)(x, w)))
    return "\n".join(programs)


@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b0"])
def test_every_variant_is_another_program(benchmark, model):
    before = traced(model)
    programs = {}
    for variant in benchmark.VARIANTS[model]:
        if variant is not benchmark.stock:
            with benchmark.patched(variant()):
                programs[variant.__name__] = traced(model)
        assert variant.__doc__
    assert programs.pop("as_it_is") == before
    assert len({before, *programs.values()}) == len(programs) + 1
    assert traced(model) == before


@pytest.mark.slow
def test_compiles_and_writes(benchmark, monkeypatch, tmp_path, capsys):
    """On CPUs, whose compiler estimates no cycles."""
    monkeypatch.setattr(benchmark.slices, "prepare_environment", lambda: None)
    monkeypatch.setattr(
        benchmark.slices, "find_devices", lambda topology: jax.devices()[:2]
    )
    monkeypatch.setattr(benchmark, "compiler_version", lambda: "none")
    monkeypatch.setitem(
        benchmark.VARIANTS, "resnet50", (benchmark.as_it_is, benchmark.stock)
    )
    path = tmp_path / "trials.json"
    options = ["--image-size", "32", "--batch", "1", "--json", str(path)]
    assert benchmark.main(["resnet50", *options]) == 0
    records = json.loads(path.read_text())["records"]
    assert [each["variant"] for each in records] == ["as_it_is", "stock"]
    assert records[0]["bytes"] != records[1]["bytes"]
    assert "as_it_is" in capsys.readouterr().out
