"""RGB's first filters, made into ones for other numbers of channels."""

import importlib.util
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers.quick import nightly_except, smallest_of_each_family
from references.libraries import import_torchvision

import cnn_jax
from cnn_jax.data import normalize
from cnn_jax.layers import abstract_variables
from cnn_jax.pretrained.channels import convert_filters, convert_preprocessing
from cnn_jax.trees import named_leaves

QUICK = ("resnet20", "vgg8_cifar")
FAMILIES = nightly_except(QUICK, smallest_of_each_family())
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def random_leaves(model, shape):
    """Returns path -> array of a model for such images."""
    shapes = abstract_variables(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    generator = np.random.default_rng(0)
    return {
        path: generator.normal(size=leaf.shape).astype(np.float32) * 0.3
        for path, leaf in named_leaves(shapes).items()
    }


@pytest.fixture(scope="module")
def rgb():
    """The variables of a LeNet-5 for colour images."""
    return random_leaves(cnn_jax.create_model("lenet5"), (32, 32, 3))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 64])
def test_filters_are_summed_or_repeated_and_scaled(rgb, channels):
    filters = rgb["params/c1/kernel"]
    loaded, report = cnn_jax.load_pretrained("lenet5", rgb, in_channels=channels)
    leaves = named_leaves(loaded)
    found = leaves.pop("params/c1/kernel")
    assert found.shape == (5, 5, channels, 6)
    if channels == 1:
        expected = filters[:, :, :1] + filters[:, :, 1:2] + filters[:, :, 2:]
        done = "summed"
    else:
        expected = np.stack(
            [filters[:, :, channel % 3] * 3 / channels for channel in range(channels)],
            axis=2,
        )
        done = f"repeated and scaled by 3 / {channels}"
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, rgb[path])
    assert report.converted == {"params/c1/kernel": (3, channels)}
    assert report.input_shape == (32, 32, channels)
    lines = str(report).splitlines()
    assert lines.count(f"first filters: 3 to {channels} channels, {done}") == 1


def test_every_way_to_say_the_number_is_the_same(rgb):
    grey, shape = cnn_jax.create_model("lenet5", in_channels=1), (32, 32, 1)
    plain = cnn_jax.create_model("lenet5")
    expected, _ = cnn_jax.load_pretrained("lenet5", rgb, in_channels=1)
    for model, options in (
        ("lenet5", {"input_shape": shape}),
        ("lenet5", {"input_shape": shape, "in_channels": 1}),
        (plain, {"in_channels": 1}),
        (plain, {"input_shape": shape}),
        (grey, {}),
        (grey, {"in_channels": 1, "input_shape": shape}),
    ):
        loaded, report = cnn_jax.load_pretrained(model, rgb, **options)
        chex.assert_trees_all_equal(loaded, expected)
        assert report.converted
    for model, options in (
        ("lenet5", {"input_shape": shape, "in_channels": 3}),
        (grey, {"in_channels": 3}),
        (grey, {"input_shape": (32, 32, 4)}),
    ):
        with pytest.raises(ValueError, match=r"^channels of the images: got .* and "):
            cnn_jax.load_pretrained(model, rgb, **options)


def test_weights_for_as_many_stay_as_they_are(rgb):
    for options in ({}, {"in_channels": 3}):
        loaded, report = cnn_jax.load_pretrained("lenet5", rgb, **options)
        assert not report.converted
        assert "first filters" not in str(report)
        for path, leaf in named_leaves(loaded).items():
            np.testing.assert_array_equal(leaf, rgb[path])


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_only_rgb_is_converted(channels, wanted):
    weights = random_leaves(cnn_jax.create_model("lenet5"), (32, 32, channels))
    if channels == wanted:
        cnn_jax.load_pretrained("lenet5", weights, in_channels=wanted)
        return
    message = rf"^a mapping: got weights for images of {channels} channels?.*, expected"
    with pytest.raises(ValueError, match=message) as error:
        cnn_jax.load_pretrained("lenet5", weights, in_channels=wanted)
    assert f"images of {wanted} channel" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "1", 10**9])
def test_the_number_has_a_range(rgb, number):
    with pytest.raises(ValueError, match=r"^in_channels: got .*, expected a whole num"):
        cnn_jax.load_pretrained("lenet5", rgb, in_channels=number)


def test_other_misfits_are_listed_all_the_same(rgb):
    wrong = {**rgb, "params/c3/kernel": np.zeros((5, 5, 7, 16), np.float32)}
    with pytest.raises(ValueError, match=r"do not fit the model, in \d places") as e:
        cnn_jax.load_pretrained("lenet5", wrong, in_channels=1)
    assert "mis-shaped: params/c3/kernel" in str(e.value)
    without = {path: leaf for path, leaf in rgb.items() if "c3" not in path}
    with pytest.raises(ValueError, match=r"in 2 places:\n  missing: params/c3") as e:
        cnn_jax.load_pretrained("lenet5", without, in_channels=1)


def test_a_new_last_layer_goes_with_it(rgb):
    loaded, report = cnn_jax.load_pretrained(
        "lenet5", rgb, in_channels=1, num_classes=3, key=jax.random.key(0)
    )
    assert loaded["params"]["head"]["kernel"].shape == (84, 3)
    assert loaded["params"]["c1"]["kernel"].shape == (5, 5, 1, 6)
    assert (list(report.converted), len(report.initialized)) == (
        ["params/c1/kernel"],
        2,
    )


def test_narrow_filters_are_summed_in_float32():
    filters = np.asarray([1024.0, 1.0, -1024.0]).reshape(1, 1, 3, 1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        (found,) = convert_filters(filters.astype(dtype), 1).ravel()
        assert (found, found.dtype) == (1, np.float32)
    assert convert_filters(filters, 1).dtype == np.float64


def test_every_first_filter_is_converted():
    """Of a network of the caller's own that reads its images twice."""

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            wide = nn.Conv(4, (5, 5), name="wide")(x)
            return (nn.Conv(4, (3, 3), name="narrow")(x) + wide).mean((1, 2))

    weights = random_leaves(Twice(), (8, 8, 3))
    loaded, report = cnn_jax.load_pretrained(Twice(), weights, input_shape=(8, 8, 1))
    assert sorted(report.converted) == ["params/narrow/kernel", "params/wide/kernel"]
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
    expected, _ = cnn_jax.load_pretrained(Twice(), weights)
    np.testing.assert_allclose(
        Twice().apply(loaded, x),
        Twice().apply(expected, x.repeat(3, axis=-1)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_mean_and_deviation_go_with_the_filters():
    said = {"mean": list(MEAN), "std": list(STD), "input_shape": [32, 48, 3], "x": 1}
    grey = convert_preprocessing(said, 1)
    assert grey["mean"] == pytest.approx([0.4])
    assert grey["std"] == pytest.approx([0.3])
    assert (tuple(grey["input_shape"]), grey["x"]) == ((32, 48, 1), 1)
    more = convert_preprocessing(said, 5)
    assert more["mean"] == [0.5, 0.4, 0.3, 0.5, 0.4]
    assert more["std"] == [0.2, 0.3, 0.4, 0.2, 0.3]
    assert convert_preprocessing({"mean": None, "std": None}, 1) == {
        "mean": None,
        "std": None,
    }


@pytest.mark.parametrize("channels", [1, 6])
def test_equal_images_are_answered_as_in_rgb(rgb, channels):
    """Grey, with equal means and deviations; and RGB twice, with any."""
    mean, std = ((0.4,) * 3, (0.3,) * 3) if channels == 1 else (MEAN, STD)
    shape = (4, 32, 32, 1 if channels == 1 else 3)
    pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    in_rgb = np.broadcast_to(pixels, (4, 32, 32, 3))
    said = convert_preprocessing({"mean": mean, "std": std}, channels)
    images = np.tile(pixels, (1, 1, 1, channels // shape[-1]))
    loaded, _ = cnn_jax.load_pretrained("lenet5", rgb, in_channels=channels)
    original, _ = cnn_jax.load_pretrained("lenet5", rgb)
    model = cnn_jax.create_model("lenet5")
    np.testing.assert_allclose(
        model.apply(loaded, normalize(images, said["mean"], said["std"])),
        model.apply(original, normalize(in_rgb, mean, std)),
        atol=1e-4,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_filters_to_convert(name):
    model = cnn_jax.create_model(name)
    size = cnn_jax.model_info(name).input_size
    weights = {
        path: np.broadcast_to(np.float32(0.5), leaf.shape)
        for path, leaf in named_leaves(
            abstract_variables(model, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
        ).items()
    }
    for channels in (1, 5):
        loaded, report = cnn_jax.load_pretrained(name, weights, in_channels=channels)
        ((path, pair),) = report.converted.items()
        assert pair == (3, channels)
        filters = np.asarray(named_leaves(loaded)[path])
        assert filters.shape[-2] == channels
        np.testing.assert_allclose(filters, 1.5 / channels, rtol=1e-6)
        model = cnn_jax.create_model(name, in_channels=channels)
        images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
        jax.eval_shape(model.apply, loaded, images)


@pytest.mark.slow
def test_space_to_depth_reads_the_same_filters():
    fields = {"stage_sizes": (1, 1), "stage_features": (4, 8), "stem_features": 4}
    plain = cnn_jax.create_model("resnet18", **fields)
    rearranged = cnn_jax.create_model("resnet18", space_to_depth=True, **fields)
    weights = random_leaves(plain, (32, 32, 3))
    weights = {
        path: np.abs(leaf) if path.endswith("/var") else leaf
        for path, leaf in weights.items()
    }
    x = np.random.default_rng(3).normal(size=(2, 32, 32, 1)).astype(np.float32)
    logits = []
    for model in (plain, rearranged):
        variables, report = cnn_jax.load_pretrained(model, weights, in_channels=1)
        assert list(report.converted) == ["params/stem/conv/kernel"]
        logits.append(model.apply(variables, x))
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


TIMMS_NAMES = {
    "resnet18": "resnet18",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "convnext_tiny": "convnext_tiny",
    "densenet121": "densenet121",
}


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", nightly_except(("resnet18", "efficientnet_lite0"), TIMMS_NAMES)
)
def test_timm_converts_likewise(name, tmp_path):
    """The file that timm reads with `in_chans`, read here with `in_channels`."""
    for library in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: see the extra `parity`")
    import_torchvision()
    import safetensors.torch
    import timm
    import torch

    theirs = TIMMS_NAMES[name]
    torch.manual_seed(0)
    network = timm.create_model(theirs)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    for channels in (1, 2, 5):
        network = timm.create_model(
            theirs,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(file)},
            in_chans=channels,
        ).eval()
        variables, report = cnn_jax.load_pretrained(
            name, file, source="timm", in_channels=channels
        )
        (path,) = report.converted
        found = np.asarray(named_leaves(variables)[path])
        (key,) = (key for key, where in report.loaded.items() if where == path)
        expected = network.state_dict()[key].numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
        x = np.random.default_rng(0).normal(size=(2, 64, 64, channels))
        x = x.astype(np.float32)
        with torch.no_grad():
            logits = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
        model = cnn_jax.create_model(name, in_channels=channels)
        ours = np.asarray(jax.jit(model.apply)(variables, x))
        assert np.abs(ours - logits).max() < 1e-4 * np.abs(logits).max()
        assert re.search(rf"first filters: 3 to {channels} channels", str(report))
