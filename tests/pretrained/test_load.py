"""Strict loading: everything has its place, or one error says what has not."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cnn_jax
from cnn_jax.trees import named_leaves


@pytest.fixture(scope="module")
def variables():
    model = cnn_jax.create_model("resnet20")
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False),
        jax.eval_shape(jax.random.key, 0),
    )
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes
    )


@pytest.fixture
def arrays(variables):
    """The variables under PyTorch's names, in PyTorch's layouts."""
    arrays = {}
    for path, array in named_leaves(variables).items():
        _, *layers, leaf = path.split("/")
        name = "/".join(layers)
        name = re.sub(
            r"stage(\d)_block(\d+)",
            lambda match: f"layer{match[1]}/{int(match[2]) - 1}",
            name,
        )
        name = re.sub(r"conv(\d)/(conv|norm)", _torch_layer, name)
        name = name.replace("stem/conv", "conv1").replace("stem/norm", "bn1")
        name = name.replace("head", "linear").replace("/", ".")
        leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}.get(
            leaf, f"running_{leaf}"
        )
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
        arrays[f"{name}.{leaf}"] = array.transpose(axes)
        if leaf == "running_var":
            arrays[f"{name}.num_batches_tracked"] = np.array(7)
    return arrays


def _torch_layer(match):
    return f"{'conv' if match[2] == 'conv' else 'bn'}{match[1]}"


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
    with pytest.raises(ValueError, match=r"key: got None.*model's 7.*params/head"):
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


def test_tensors_of_a_state_dict(arrays, variables):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    tensors["conv1.weight"].requires_grad_()
    loaded, _ = cnn_jax.load_pretrained("resnet20", tensors)
    chex.assert_trees_all_equal(loaded, variables)
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    loaded, _ = cnn_jax.load_pretrained("resnet20", halves)
    chex.assert_trees_all_close(loaded, variables, rtol=1e-2, atol=1e-2)


class TestFiles:
    def test_round_trip(self, arrays, variables, tmp_path):
        path = tmp_path / "weights.safetensors"
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path
        )
        for form in (path, str(path)):
            loaded, _ = cnn_jax.load_pretrained("resnet20", form)
            chex.assert_trees_all_equal(loaded, variables)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
            cnn_jax.load_pretrained("resnet20", tmp_path / "nowhere.safetensors")

    def test_another_suffix(self, tmp_path):
        (tmp_path / "weights.pth").write_bytes(b"anything")
        with pytest.raises(ValueError, match=r"weights.pth: got .*'.pth', expected"):
            cnn_jax.load_pretrained("resnet20", tmp_path / "weights.pth")

    @pytest.mark.parametrize("damage", ["truncated", "no safetensors", "empty"])
    def test_damaged(self, damage, arrays, tmp_path):
        path = tmp_path / "weights.safetensors"
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path
        )
        content = {
            "truncated": path.read_bytes()[:-100],
            "no safetensors": b"\x80\x04 a pickle, say" * 9,
            "empty": b"",
        }[damage]
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights.safetensors: got a damaged"):
            cnn_jax.load_pretrained("resnet20", path)
