"""Strict loading: everything has its place, or one error says what has not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cnn_jax
from cnn_jax.pretrained.placement import find_places
from cnn_jax.trees import named_leaves


def test_every_array_reaches_its_place(arrays, variables):
    loaded, report = cnn_jax.load_pretrained("resnet20", arrays)
    chex.assert_trees_all_equal(loaded, variables)
    assert report.source == "torchvision"
    assert report.loaded["layer2.0.conv1.weight"] == (
        "params/stage2_block1/conv1/conv/kernel"
    )
    assert len(report.loaded) == len(jax.tree.leaves(variables))
    assert len(report.ignored) == 19
    assert not report.cast
    assert not report.initialized
    text = str(report)
    assert "97 arrays loaded, named as by torchvision" in text
    assert "19 ignored: layer1.0.bn1.num_batches_tracked, " in text


def test_a_prefix_on_every_name_is_dropped(arrays, variables):
    prefixed = {f"module.{name}": array for name, array in arrays.items()}
    loaded, _ = cnn_jax.load_pretrained("resnet20", prefixed)
    chex.assert_trees_all_equal(loaded, variables)


def test_own_names_are_a_source_too(variables, tmp_path):
    path = tmp_path / "own.safetensors"
    safetensors.numpy.save_file(named_leaves(variables), path)
    loaded, report = cnn_jax.load_pretrained("resnet20", path)
    chex.assert_trees_all_equal(loaded, variables)
    assert report.source == "cnn_jax"


def test_one_error_lists_all_that_does_not_fit(arrays):
    del arrays["bn1.weight"]
    arrays["fc.weight"] = arrays["linear.weight"]  # a second name of the same place
    arrays["layer1.0.conv1.weight"] = arrays["layer1.0.conv1.weight"][:, :5]
    arrays["layer1.0.conv2.weight"] = arrays["layer1.0.conv2.weight"].astype(np.int8)
    arrays["layer9.0.conv1.weight"] = np.zeros((2, 2, 3, 3), np.float32)
    arrays["surplus"] = np.zeros(3, np.float32)
    arrays["layer1.1.conv1.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="do not fit the model, in 10 places") as error:
        cnn_jax.load_pretrained("resnet20", arrays)
    lines = str(error.value).splitlines()[1:]
    assert sorted(line.strip() for line in lines) == [
        "mis-shaped: layer1.0.conv1.weight (16, 5, 3, 3), expected "
        "params/stage1_block1/conv1/conv/kernel (3, 3, 16, 16)",
        "mis-shaped: layer1.1.conv1.weight (3,), expected "
        "params/stage1_block2/conv1/conv/kernel (3, 3, 16, 16)",
        "missing: params/stage1_block1/conv1/conv/kernel (3, 3, 16, 16)",
        "missing: params/stage1_block1/conv2/conv/kernel (3, 3, 16, 16)",
        "missing: params/stage1_block2/conv1/conv/kernel (3, 3, 16, 16)",
        "missing: params/stem/norm/scale (16,)",
        "not of floating-point numbers: layer1.0.conv2.weight, int8",
        "twice: fc.weight, params/head/kernel",
        "unexpected: layer9.0.conv1.weight (2, 2, 3, 3) "
        "(params/stage9_block1/conv1/conv/kernel)",
        "unexpected: surplus (3,)",
    ]


def test_another_number_of_classes_needs_a_key(arrays, variables):
    with pytest.raises(
        ValueError, match=r"key: got None.*for 10 classes.*model's 7.*params/head"
    ):
        cnn_jax.load_pretrained("resnet20", arrays, num_classes=7)
    loaded, report = cnn_jax.load_pretrained(
        "resnet20", arrays, num_classes=7, key=jax.random.key(0)
    )
    assert sorted(report.initialized) == ["params/head/bias", "params/head/kernel"]
    assert loaded["params"]["head"]["kernel"].shape == (64, 7)
    assert np.std(loaded["params"]["head"]["kernel"]) > 0.01
    chex.assert_trees_all_equal(loaded["batch_stats"], variables["batch_stats"])
    model = cnn_jax.create_model("resnet20", num_classes=7)
    x = jnp.ones((1, 32, 32, 3))
    assert model.apply(loaded, x, train=False).shape == (1, 7)
    assert "initialised afresh: params/head" in str(report)


def test_a_key_alone_asks_for_no_new_head(arrays):
    model = cnn_jax.create_model("resnet20", num_classes=7)
    key = jax.random.key(0)
    _, report = cnn_jax.load_pretrained(model, arrays, key=key)
    assert report.initialized
    arrays["linear.weight"] = arrays["linear.weight"][:7]
    arrays["linear.bias"] = arrays["linear.bias"][:7]
    with pytest.raises(ValueError, match=r"num_classes: got None.*for 7 classes.*10"):
        cnn_jax.load_pretrained("resnet20", arrays, key=key)


def test_the_files_own_number_of_classes_keeps_the_head(arrays, variables):
    loaded, report = cnn_jax.load_pretrained("resnet20", arrays, num_classes=10)
    chex.assert_trees_all_equal(loaded, variables)
    assert not report.initialized


def test_features_need_no_head(arrays):
    loaded, report = cnn_jax.load_pretrained("resnet20", arrays, num_classes=0)
    assert "head" not in loaded["params"]
    assert {"linear.weight", "linear.bias"} <= set(report.ignored)


def test_a_head_of_another_width_is_no_other_number_of_classes(arrays):
    arrays["linear.weight"] = arrays["linear.weight"][:, :32]
    with pytest.raises(ValueError, match=r"mis-shaped: linear.weight \(10, 32\)"):
        cnn_jax.load_pretrained("resnet20", arrays, key=jax.random.key(0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floats_of_another_width_are_cast_and_reported(dtype, arrays, variables):
    dtype = jnp.dtype(dtype)
    narrow = {
        name: array.astype(dtype) if array.ndim else array
        for name, array in arrays.items()
    }
    loaded, report = cnn_jax.load_pretrained("resnet20", narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    assert set(report.cast.values()) == {(str(dtype), "float32")}
    assert len(report.cast) == len(report.loaded)
    assert f"97 cast from {dtype} to float32" in str(report)
    chex.assert_trees_all_close(loaded, variables, rtol=1e-2, atol=1e-2)


def test_a_model_has_its_own_number_of_classes(arrays, variables):
    model = cnn_jax.create_model("resnet20", param_dtype=jnp.bfloat16)
    loaded, _ = cnn_jax.load_pretrained(model, arrays)
    assert loaded["params"]["head"]["kernel"].dtype == jnp.bfloat16
    assert loaded["batch_stats"]["stem"]["norm"]["var"].dtype == jnp.float32
    with pytest.raises(ValueError, match="num_classes: got 5 beside a model"):
        cnn_jax.load_pretrained(model, arrays, num_classes=5)


def test_sources(arrays):
    with pytest.raises(ValueError, match=r"source: got 'pytorch', expected one of"):
        cnn_jax.load_pretrained("resnet20", arrays, source="pytorch")
    with pytest.raises(ValueError, match="none is named as in a ResNet of cnn_jax"):
        cnn_jax.load_pretrained("resnet20", arrays, source="cnn_jax")
    with pytest.raises(ValueError, match=r"3 arrays, such as a, b, c.*another model's"):
        cnn_jax.load_pretrained("resnet20", dict.fromkeys("abc", np.zeros(3)))
    with pytest.raises(ValueError, match="0 arrays"):
        cnn_jax.load_pretrained("resnet20", {})
    with pytest.raises(ValueError, match="unknown name 'resnt20'"):
        cnn_jax.load_pretrained("resnt20", arrays)


@pytest.mark.parametrize("name", ["efficientnet_b5", "efficientnet_v2_s"])
def test_timms_other_networks_of_the_same_names_are_refused(name):
    """Their shapes would fit, their batch normalisation would not."""
    names = ["conv_stem.weight"]
    expected = ["params/stem/conv/kernel"]
    with pytest.raises(ValueError, match="none is named as in a EfficientNet of timm"):
        find_places(cnn_jax.create_model(name), names, "timm", expected)
    _, places = find_places(
        cnn_jax.create_model("efficientnet_b0"), names, "timm", expected
    )
    assert places["conv_stem.weight"].path == "params/stem/conv/kernel"


def test_tensors_of_a_state_dict(arrays, variables):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    tensors["conv1.weight"].requires_grad_()
    loaded, _ = cnn_jax.load_pretrained("resnet20", tensors)
    chex.assert_trees_all_equal(loaded, variables)
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    loaded, _ = cnn_jax.load_pretrained("resnet20", halves)
    chex.assert_trees_all_close(loaded, variables, rtol=1e-2, atol=1e-2)


class TestTransposed:
    """Mis-shaped arrays of which a transposition would fit."""

    @pytest.mark.parametrize(
        ("name", "axes", "hint"),
        [
            ("output.weight", (1, 0), (1, 0)),
            ("c3.weight", (2, 3, 1, 0), (3, 2, 0, 1)),
            ("c3.weight", (1, 0, 2, 3), (1, 0, 2, 3)),
        ],
    )
    def test_the_error_says_which(self, name, axes, hint, lenet_arrays):
        shape = lenet_arrays[name].shape
        lenet_arrays[name] = lenet_arrays[name].transpose(axes)
        with pytest.raises(ValueError, match="mis-shaped") as error:
            cnn_jax.load_pretrained("lenet5", lenet_arrays)
        assert f"; transposed to {hint} it would fit" in str(error.value)
        assert lenet_arrays[name].transpose(hint).shape == shape

    def test_another_size_fits_no_way(self, lenet_arrays):
        lenet_arrays["f6.weight"] = lenet_arrays["f6.weight"][:, 1:]
        with pytest.raises(ValueError, match="mis-shaped") as error:
            cnn_jax.load_pretrained("lenet5", lenet_arrays)
        assert "transposed" not in str(error.value)


class TestValues:
    """Arrays of the right shapes that are no weights all the same."""

    def test_all_that_are_not_finite_are_named(self, lenet_arrays):
        lenet_arrays["c1.weight"][0, 0, 0, :2] = np.nan
        lenet_arrays["f6.bias"][3] = -np.inf
        with pytest.raises(ValueError, match="do not fit the model, in 2 places") as e:
            cnn_jax.load_pretrained("lenet5", lenet_arrays)
        lines = str(e.value).splitlines()[1:]
        assert sorted(line.strip() for line in lines) == [
            "not finite: c1.weight, 2 of 150 values",
            "not finite: f6.bias, 1 of 84 values",
        ]

    def test_what_is_too_large_for_the_model(self, lenet_arrays):
        lenet_arrays["f6.bias"] = np.full(84, 1e300)
        with pytest.raises(ValueError, match=r"too large for float32: f6.bias, 84 "):
            cnn_jax.load_pretrained("lenet5", lenet_arrays)

    @pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool", "complex64"])
    def test_whole_numbers_are_no_weights(self, dtype, lenet_arrays):
        lenet_arrays["f6.bias"] = lenet_arrays["f6.bias"].astype(dtype)
        with pytest.raises(
            ValueError, match=f"floating-point numbers: f6.bias, {dtype}"
        ):
            cnn_jax.load_pretrained("lenet5", lenet_arrays)

    def test_the_variables_are_no_view_of_the_arrays(self, lenet_arrays, lenet):
        loaded, _ = cnn_jax.load_pretrained("lenet5", lenet_arrays)
        for array in lenet_arrays.values():
            array[...] = 0
        chex.assert_trees_all_equal(loaded, lenet)


class TestParts:
    """Checkpoints with the state dict inside, and names with wrappers' prefixes."""

    @pytest.mark.parametrize(
        "part", ["state_dict", "model", "model_ema", "model_state_dict"]
    )
    def test_the_part_is_found_and_reported(self, part, lenet_arrays, lenet):
        checkpoint = {"epoch": 3, "arch": "lenet5", part: lenet_arrays}
        loaded, report = cnn_jax.load_pretrained("lenet5", checkpoint)
        chex.assert_trees_all_equal(loaded, lenet)
        assert report.provenance.part == part
        assert f"out of its {part}" in str(report)

    def test_averaged_weights_come_first(self, lenet_arrays, lenet):
        last = {name: array + 1 for name, array in lenet_arrays.items()}
        checkpoint = {"model": last, "model_ema": lenet_arrays}
        loaded, report = cnn_jax.load_pretrained("lenet5", checkpoint)
        chex.assert_trees_all_equal(loaded, lenet)
        assert report.provenance.part == "model_ema"

    def test_prefixes_upon_prefixes(self, lenet_arrays, lenet):
        wrapped = {
            f"module._orig_mod.module.{name}": array
            for name, array in lenet_arrays.items()
        }
        wrapped["n_averaged"] = np.array(9)
        loaded, report = cnn_jax.load_pretrained("lenet5", {"state_dict": wrapped})
        chex.assert_trees_all_equal(loaded, lenet)
        assert report.ignored == ("n_averaged",)

    def test_what_is_no_array_is_unexpected(self, lenet_arrays):
        with pytest.raises(ValueError, match=r"unexpected: epoch \(\)"):
            cnn_jax.load_pretrained("lenet5", {**lenet_arrays, "epoch": 3})
