"""A run that needs more memory than there is, is refused before it takes it."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from cnn_jax import data, memory, sharding
from cnn_jax.training import TrainConfig
from cnn_jax.training.run import build
from cnn_jax.training.run.build import build_run, compile_run
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import image_format
from cnn_jax.training.run.memory import check_estimate, check_plan

CONFIG = TrainConfig(model="tiny", image_size=8, batch_size=32, epochs=1)


@pytest.fixture
def free(monkeypatch):
    """Sets what there is."""
    return lambda number: monkeypatch.setattr(memory, "available_bytes", lambda: number)


@pytest.fixture
def parts(tiny_net, digits):
    mesh = sharding.make_mesh(jax.devices()[:1])
    return build_run(tiny_net(), CONFIG, {"train": digits[0]}, mesh)


def test_a_run_that_fits_is_not_refused(parts, free):
    free(None)
    compiled = compile_run(parts)
    plan = compiled.plans["step"]
    assert plan.temp_size_in_bytes > 0
    needed = compiled.peak_memory_bytes  # with the data, which are there already
    free(needed)
    check_plan(CONFIG, compiled, parts.mesh)


def test_the_compilers_plan_is_held_against_what_there_is(parts, free):
    free(None)
    compiled = compile_run(parts)
    free(compiled.plans["step"].temp_size_in_bytes // 2)
    with pytest.raises(ValueError) as error:
        check_plan(CONFIG, compiled, parts.mesh)
    message = str(error.value)
    assert message.startswith("memory: got a run of tiny on cpu, which needs ")
    for word in (
        "parameters and optimizer state",
        "a step's temporaries and results",
        "that are free",
        "batch_size (it is 32)",
        "image_size",
        "accumulate_steps (it is 1)",
        "remat=True",
    ):
        assert word in message
    assert "\n" not in message


def test_a_state_that_does_not_fit_is_not_compiled_for(parts, free, monkeypatch):
    def compile_(*arguments, **options):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(build, "CompiledRun", compile_)
    free(1000)
    with pytest.raises(
        ValueError, match=r"memory: .*needs .* kB.*expected at most the"
    ):
        compile_run(parts)


def test_nothing_is_refused_without_a_plan(parts, free):
    free(None)
    compiled = compile_run(parts)
    free(0)
    without = types.SimpleNamespace(plans={"start": None, "step": None})
    check_plan(CONFIG, without, parts.mesh)
    with pytest.raises(ValueError, match="memory: "):
        check_plan(CONFIG, compiled, parts.mesh)


def test_a_backend_without_plans_still_trains(tiny_net, digits, monkeypatch, free):
    stage = type(jax.jit(lambda x: x).lower(1.0).compile())

    def unknown(self):
        raise NotImplementedError

    monkeypatch.setattr(stage, "memory_analysis", unknown)
    result = fit(tiny_net(), digits[0], config=CONFIG, progress=False)
    assert result.peak_memory_bytes == 0


def test_fit_refuses_before_it_writes_anything(tiny_net, digits, free, tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "run"))
    free(10_000)
    with pytest.raises(
        ValueError, match=r"memory: .*the data .*gradients .*a batch of"
    ):
        fit(tiny_net(), digits[0], config=config, progress=False)
    assert not (tmp_path / "run").exists()


class Device(types.SimpleNamespace):
    """A device of another platform, which tells of its memory or does not."""

    def memory_stats(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


@pytest.mark.parametrize(
    ("stats", "is_refused"),
    [
        ({"bytes_limit": 100_000, "bytes_in_use": 99_990}, True),
        ({"bytes_limit": 10}, True),
        ({"bytes_limit": 10**9, "bytes_in_use": 5}, False),
        ({"num_allocs": 3}, False),
        (None, False),
        (RuntimeError("only described"), False),
    ],
)
def test_an_accelerator_is_asked_itself(stats, is_refused, digits, free):
    free(0)  # of the host, which does not count
    device = Device(platform="gpu", device_kind="H", stats=stats)
    mesh = types.SimpleNamespace(
        devices=np.asarray([device]), local_devices=[device], shape={}, size=1
    )
    variables = {"params": {"kernel": jax.ShapeDtypeStruct((10,), np.float32)}}
    splits = {"train": digits[0]}
    images = image_format(CONFIG, digits[0])

    def check():
        check_estimate(CONFIG, splits, images, variables, mesh)

    if is_refused:
        with pytest.raises(ValueError, match="a run of tiny on H, which needs"):
            check()
    else:
        check()


def test_the_devices_of_a_cpu_share_its_memory(tiny_net, digits, free):
    images = image_format(CONFIG, digits[0])
    variables = {"params": {}}
    splits = {"train": digits[0]}
    needed = digits[0].images.nbytes + digits[0].labels.nbytes + 32 * 64 * 4
    one, eight = (sharding.make_mesh(jax.devices()[:count]) for count in (1, 8))
    free(needed)
    check_estimate(CONFIG, splits, images, variables, one)
    with pytest.raises(ValueError, match="memory: "):
        check_estimate(CONFIG, splits, images, variables, eight)


def test_a_last_layer_that_is_enormous_is_refused_by_its_shape_alone(tiny_net, free):
    free(8 * 2**28)  # for eight devices
    images = np.zeros((8, 2048, 2048, 1), np.uint8)
    config = dataclasses.replace(CONFIG, batch_size=8, image_size=None)
    with pytest.raises(ValueError, match=r"memory: .*parameters and gradients 671 MB"):
        fit(tiny_net(), (images, np.arange(8)), config=config, progress=False)


@pytest.mark.parametrize("image_size", [2**15, 4096])
def test_images_are_counted_before_they_are_decoded(image_size, free):
    free(2**30)
    with pytest.raises(ValueError, match=r"memory: got the 1,442 images of 'digits'"):
        data.load_dataset("digits", "train", image_size=image_size)
    with pytest.raises(ValueError, match=r"memory: got the 1,280 images of 'synthetic"):
        data.load_dataset("synthetic:8x8x3", "train", image_size=image_size)
    with pytest.raises(ValueError, match=r"memory: got the 1,280 images of 'synthetic"):
        data.load_dataset(f"synthetic:{image_size}x{image_size}x3", "train")


def test_a_size_beyond_all_images_is_refused():
    for size in (0, 2**15 + 1, 100_000, 1.5, float("nan"), "8"):
        with pytest.raises(ValueError, match=r"image_size: got .*1 to 32,768"):
            data.load_dataset("digits", "train", image_size=size)
    with pytest.raises(ValueError, match=r"dataset: got .*sides of up to 32,768"):
        data.open_source("synthetic:99999999x4x3", "train")


def test_pixels_are_counted_in_the_memory_that_they_have(monkeypatch):
    from cnn_jax.data import dataset

    images = np.arange(6 * 4 * 4 * 2).reshape(6, 4, 4, 2).astype(np.uint8)
    split = data.Dataset("a", "train", images, np.zeros(6, np.int64), ("x",))
    expected = [values / 255 for values in np.moveaxis(images, -1, 0).astype(float)]
    monkeypatch.setattr(dataset, "COUNTED_AT_ONCE", 40)  # two images, and a rest
    counted = []
    count = np.bincount
    monkeypatch.setattr(
        np, "bincount", lambda x, **kw: counted.append(x.size) or count(x, **kw)
    )
    mean, std = split.channel_statistics
    np.testing.assert_allclose(mean, [each.mean() for each in expected], rtol=1e-12)
    np.testing.assert_allclose(std, [each.std() for each in expected], rtol=1e-12)
    assert max(counted) <= 40


def test_the_programs_say_what_they_were_planned_with(parts):
    compiled = compile_run(parts)
    assert isinstance(compiled, CompiledRun)
    assert jax.tree.structure(compiled.carry) == jax.tree.structure(
        compiled.start(parts.keys.parameters, None)
    )
