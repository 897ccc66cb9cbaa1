"""The exported program against `model.apply`, and what `load_exported` refuses."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers.quick import nightly_except, smallest_of_each_family

import cnn_jax
from cnn_jax.export import loading
from cnn_jax.export.stablehlo import as_stablehlo

pytestmark = pytest.mark.parity

QUICK = ("lenet5", "plain20")
"""The others nightly: each is compiled for three batches, and the model for two."""


@pytest.fixture(scope="module", autouse=True)
def flatbuffers():
    return pytest.importorskip("flatbuffers")


@pytest.fixture(scope="module")
def content(make_network):
    names = tuple(f"digit {number}" for number in range(10))
    return as_stablehlo(make_network("lenet5", class_names=names))


@pytest.fixture
def exported(content, tmp_path):
    path = tmp_path / "lenet5.stablehlo"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", nightly_except(QUICK, smallest_of_each_family()))
def test_agrees_with_the_model(name, make_network, tmp_path):
    network = make_network(name)
    path = tmp_path / "network"
    path.write_bytes(as_stablehlo(network))
    loaded = cnn_jax.load_exported(path)
    assert np.abs(loaded.golden_output).max() > 0.2
    images = network.example(5)
    for batch in (5, 1):
        expected = jax.jit(network)(network.variables, images[:batch])
        found = loaded(images[:batch])
        assert loading.relative_difference(found, np.asarray(expected)) <= 1e-6


CHILD = """
import sys
import numpy as np
import cnn_jax
network = cnn_jax.load_exported(sys.argv[1])
logits = network(np.zeros((3, 32, 32, 1), np.uint8))
assert logits.shape == (3, 10), logits.shape
assert network.description.class_names[3] == "digit 3"
for name in ("flax", "cnn_jax.models", "cnn_jax.layers", "cnn_jax.kernels"):
    assert name not in sys.modules, name
"""


def test_is_loaded_without_flax(exported):
    subprocess.run([sys.executable, "-c", CHILD, exported], check=True)


def test_serves_every_platform_by_one_program(exported):
    module = safetensors.numpy.load_file(exported)["module"].tobytes()
    program = loading.deserialize(module)
    assert program.platforms == ("cpu", "cuda", "rocm", "tpu")
    text = program.mlir_module()
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}
    # Nor is there a path of the machine that wrote it.
    assert ".py" not in text
    assert b".py" not in module


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 1), np.float32), "got float32"),
        (np.zeros((2, 28, 28, 1), np.uint8), "of shape (2, 28, 28, 1)"),
        (np.zeros((0, 32, 32, 1), np.uint8), "of at least 1"),
        ([[1]], "expected uint8"),
    ],
    ids=["floats", "another size", "no image", "no array"],
)
def test_other_images_are_refused(exported, images, message):
    with pytest.raises(ValueError) as caught:
        cnn_jax.load_exported(exported)(images)
    assert message in str(caught.value)


def test_normalized_images_are_taken_if_the_file_says_so(make_network, tmp_path):
    network = make_network("lenet5", normalized=True)
    (tmp_path / "x").write_bytes(as_stablehlo(network))
    loaded = cnn_jax.load_exported(tmp_path / "x")
    assert loaded.description.input_dtype == np.float32
    images = network.example(2)
    expected = network.model.apply(network.variables, images, train=False)
    np.testing.assert_allclose(loaded(images), expected, 1e-5, 1e-6)


def test_half_precision_is_kept(make_network, tmp_path):
    network = make_network("lenet5", dtype=jnp.bfloat16)
    (tmp_path / "x").write_bytes(as_stablehlo(network))
    assert cnn_jax.load_exported(tmp_path / "x")(network.example(1)).dtype == "float32"


def rewritten(path, change, *, sign=True):
    """Writes a file of ours with something changed, and perhaps its digest after it."""
    with safetensors.safe_open(path, framework="np") as opened:
        metadata = opened.metadata()
    parts = SimpleNamespace(
        arrays=dict(safetensors.numpy.load_file(path)),
        about=json.loads(metadata[loading.METADATA_NAME]),
    )
    change(parts)
    text = json.dumps(parts.about)
    digest = metadata[loading.DIGEST_NAME]
    if sign:
        digest = loading.digest_of(text, parts.arrays)
    metadata = {loading.METADATA_NAME: text, loading.DIGEST_NAME: digest}
    path.write_bytes(safetensors.numpy.save(parts.arrays, metadata))


def scale_golden(factor):
    def change(parts):
        name = loading.GOLDEN_OUTPUT
        parts.arrays[name] = parts.arrays[name] * np.float32(factor)

    return change


def drop(name):
    return lambda parts: parts.arrays.pop(name)


def set_about(**fields):
    return lambda parts: parts.about.update(fields)


def use_module(function, *, dtype=np.uint8):
    """Puts another program into a file."""

    def change(parts):
        (batch,) = jax.export.symbolic_shape("batch")
        shapes = {
            name.removeprefix(loading.VARIABLES): array
            for name, array in parts.arrays.items()
            if name.startswith(loading.VARIABLES)
        }
        images = jax.ShapeDtypeStruct((batch, 32, 32, 1), dtype)
        program = jax.export.export(jax.jit(function))(shapes, images)
        content = np.frombuffer(bytes(program.serialize()), np.uint8)
        parts.arrays[loading.MODULE] = content

    return change


def endless(variables, images):
    start = images[:, 0, 0].astype(jnp.float32).repeat(10, 1)
    return jax.lax.while_loop(lambda x: True, lambda x: x + 1, start)


DAMAGES = {
    "another golden output": (scale_golden(1 + 1e-5), "logits that differ by 1.0e-05"),
    "a golden output of NaN": (scale_golden(np.nan), "differ by nan"),
    "no golden output": (drop(loading.GOLDEN_OUTPUT), "KeyError"),
    "no parameter": (drop("variables/params/c1/bias"), "other parameters"),
    "no module": (drop(loading.MODULE), "KeyError"),
    "half a module": (
        lambda parts: parts.arrays.update(module=parts.arrays["module"][:5000]),
        "damaged",
    ),
    "another size of images": (
        lambda parts: parts.about["preprocessing"].update(size=28),
        "takes images of shape",
    ),
    "a recipe of nothing": (set_about(preprocessing={}), "fields of a Preprocessing"),
    "another kind": (set_about(kind="weights"), "it is weights"),
    "another version": (set_about(version=2), "of version 2"),
    "names for fewer classes": (set_about(class_names=["a"]), "it names 1 classes"),
    "other numbers of classes": (
        set_about(class_names=None, num_classes=11),
        "golden output has shape",
    ),
    "True classes": (set_about(class_names=None, num_classes=True), "expected int"),
    "a loop without an end": (use_module(endless), "its program has while"),
    "images of another dtype": (
        use_module(
            lambda variables, x: x[:, 0, 0] * np.ones((1, 10), np.float32),
            dtype=np.float32,
        ),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_is_refused_in_one_sentence(name, exported):
    change, message = DAMAGES[name]
    rewritten(exported, change)
    with pytest.raises(ValueError, match=str(exported)) as caught:
        cnn_jax.load_exported(exported)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "operation",
    [
        "%0 = stablehlo.custom_call @xla_python_cpu_callback(%arg0)",
        '%0 = "stablehlo.custom_call"(%arg0) <{call_target_name = "x"}>',
        "%0 = stablehlo.custom_call @shape_assertion(%1)\n  stablehlo.infeed %2",
        "%0:2 = stablehlo.while(%iterArg = %arg0)",
    ],
    ids=["a callback", "a generic call", "infeed", "while"],
)
def test_a_program_that_calls_or_waits_is_refused(operation):
    program = SimpleNamespace(mlir_module=lambda: operation)
    with pytest.raises(ValueError, match="its program has"):
        loading._check_module(program, {}, None)


def test_a_flipped_bit_is_found(exported):
    content = bytearray(exported.read_bytes())
    for place in (9, 3000, len(content) // 2, len(content) - 1):
        content[place] ^= 1
        exported.write_bytes(content)
        with pytest.raises(ValueError, match="export it again"):
            cnn_jax.load_exported(exported)
        content[place] ^= 1


def test_a_tolerance_may_be_given(exported):
    rewritten(exported, scale_golden(1.001))
    cnn_jax.load_exported(exported, tolerance=0.01)
    with pytest.raises(ValueError, match="expected at most 1e-04"):
        cnn_jax.load_exported(exported, tolerance=1e-4)


def test_a_file_of_another_kind_of_device_has_more_room(exported):
    rewritten(exported, scale_golden(1.001))
    rewritten(exported, set_about(platform="tpu"))
    cnn_jax.load_exported(exported)


def test_a_file_of_weights_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"x": np.ones(3)}, path)
    with pytest.raises(ValueError, match="does not say what it is"):
        cnn_jax.load_exported(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        cnn_jax.load_exported(tmp_path / "nothing")
