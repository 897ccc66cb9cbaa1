"""Whole networks under onnxruntime, against `model.apply`."""

import json

import jax
import numpy as np
import pytest
from helpers.quick import nightly_except, smallest_of_each_family

from cnn_jax.export.network import Network
from cnn_jax.export.onnx import as_onnx
from cnn_jax.export.onnx import writer as onnx_writer

pytestmark = pytest.mark.parity

QUICK = (
    *("lenet5", "vgg8_cifar", "plain20", "resnet18"),
    *("shufflenet_v2_x0_5", "mobilenet_v1_0_25", "efficientnet_cifar"),
)
"""A network of each kind of layer that compiles in seconds; the others nightly."""


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", nightly_except(QUICK, smallest_of_each_family()))
def test_agrees_with_the_model(name, runtime, make_network, monkeypatch):
    # What the command does beside is what this does.
    monkeypatch.setattr(onnx_writer, "_agrees", lambda content, network: False)
    network = make_network(name)
    content, checked_by = as_onnx(network)
    assert checked_by == ["ONNX's checker"]
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = network.example(5)
    expected = np.asarray(jax.jit(network)(network.variables, images))
    assert np.abs(expected).max() > 0.2
    for batch in (5, 1):
        (found,) = session.run(["logits"], {"images": images[:batch]})
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-4)


def test_half_precision_is_written_in_float32(runtime, make_network):
    narrow, wide = make_network("lenet5", dtype="bfloat16"), make_network("lenet5")
    assert as_onnx(narrow)[0] == as_onnx(wide)[0]


def test_metadata_say_what_it_is(runtime, make_network):
    import onnx

    names = tuple(f"digit {number}" for number in range(10))
    network = make_network("lenet5", class_names=names, normalized=True)
    model = onnx.load_from_string(as_onnx(network)[0])
    found = {each.key: each.value for each in model.metadata_props}
    assert json.loads(found["class_names"]) == list(names)
    assert json.loads(found["preprocessing"])["mean"] == list(
        network.description.preprocessing.mean
    )
    assert (found["model"], found["normalized"]) == ("lenet5", "true")
    (images,) = model.graph.input
    dimensions = images.type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in dimensions] == [
        *("batch", 32, 32, 1)
    ]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {each.domain for each in model.opset_import} == {""}


def test_other_logits_are_an_error(runtime, make_network, monkeypatch):
    network = make_network("lenet5")
    content, checked_by = as_onnx(network)
    assert len(checked_by) == 2
    other = Network(
        network.model,
        jax.tree.map(lambda leaf: 1.01 * leaf, network.variables),
        network.description,
    )
    with pytest.raises(RuntimeError, match="onnxruntime's logits differ"):
        onnx_writer._agrees(content, other)
