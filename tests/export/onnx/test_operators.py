"""Each operator under onnxruntime, against the function it was written from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels as K
from cnn_jax.export.network import describe
from cnn_jax.export.onnx import fold
from cnn_jax.export.onnx.operators import OPERATORS
from cnn_jax.export.onnx.tracing import trace_function
from cnn_jax.export.onnx.writer import to_model
from cnn_jax.preprocessing import Preprocessing

pytestmark = pytest.mark.parity

_RANDOM = np.random.default_rng(0)
FILTERS = _RANDOM.normal(size=(3, 3, 4, 6)).astype(np.float32)
ROW = np.arange(1.0, 5.0, dtype=np.float32).reshape(1, 1, 1, 4)
MATRIX = _RANDOM.normal(size=(4, 3)).astype(np.float32)
SCALES = _RANDOM.uniform(0.5, 1.5, (2, 6)).astype(np.float32)


def conv(x, **options):
    return K.conv(x, FILTERS[:, :, : 4 // options.get("groups", 1)], **options)


CASES = {
    "add": lambda x: x + x * ROW,
    "add a row": lambda x: ROW + x,
    "neg, abs, sign, floor, ceil": lambda x: (
        -jnp.abs(x) + jnp.sign(x) * jnp.floor(x) + jnp.ceil(x)
    ),
    "constant minus x": lambda x: ROW - x,
    "constant over x": lambda x: ROW / (x + 9),
    "x over a constant with 0": lambda x: jnp.divide(x + 9, ROW - 1),
    "exp, log, sqrt, rsqrt": lambda x: (
        jnp.log(jnp.exp(x) + 1) * jnp.sqrt(x * x) + jax.lax.rsqrt(x * x + 1)
    ),
    "powers": lambda x: x**3 + jnp.abs(x) ** 0.3 + jnp.square(x),
    "tanh, erf, erfc, logistic": lambda x: (
        jnp.tanh(x) + jax.lax.erf(x) + jax.lax.erfc(x) * jax.nn.sigmoid(x)
    ),
    "gelu": K.gelu,
    "hard swish": K.hard_swish,
    "clamp": lambda x: jax.lax.clamp(-0.5, x, 0.25),
    "a bound by another array": lambda x: jnp.minimum(jnp.maximum(x, x[:, :1]), ROW),
    "minimum of a negative": lambda x: jnp.minimum(jax.nn.relu(x), -1.0),
    "where": lambda x: jnp.where((x > 0) & ~(x >= 1) | (x < -1), x, 2 * x),
    "where of equal": lambda x: jnp.where((x <= 0) | (x == x[:, :1]), ROW, x),
    "convert": lambda x: x.astype(jnp.int32).astype(jnp.float32),
    "flatten": lambda x: x.reshape(x.shape[0], -1),
    "flatten channels first": lambda x: conv(x).reshape(x.shape[0], -1),
    "split channels": lambda x: conv(x).reshape(*x.shape[:3], 3, 2).sum(3),
    "shuffle": lambda x: (
        conv(x).reshape(*x.shape[:3], 3, 2).swapaxes(3, 4).reshape(*x.shape[:3], 6)
    ),
    "squeeze": lambda x: jnp.squeeze(conv(x)[:, :1, :1], (1, 2)),
    "a gate": lambda x: x * x.mean((1, 2))[:, None, None],
    "broadcast": lambda x: jnp.broadcast_to(x[:, :1, :, :1], x.shape),
    "broadcast, channels first": lambda x: jnp.broadcast_to(
        conv(x)[:, :1], conv(x).shape
    ),
    "transpose": lambda x: x.transpose(0, 2, 3, 1),
    "transpose, channels first": lambda x: conv(x).transpose(0, 2, 1, 3),
    "concatenate": lambda x: jnp.concatenate([x, conv(x)], axis=3),
    "concatenate rows": lambda x: jnp.concatenate([conv(x), conv(x)[:, :3]], axis=1),
    "strided slice": lambda x: conv(x)[:, 1::2, :5:3, 2:],
    "pad": lambda x: jnp.pad(conv(x), ((0, 0), (1, 2), (0, 0), (2, 1))) + 1,
    "pad and crop": lambda x: jax.lax.pad(
        x, jnp.float32(3), ((0, 0, 0), (-1, 2, 0), (0, -2, 0), (1, 0, 0))
    ),
    "sums": lambda x: x.sum(2) + conv(x)[..., :4].sum(2),
    "sum of channels": lambda x: conv(x).sum(-1),
    "sum of one axis, channels first": lambda x: conv(x).sum(1),
    "mean of all": lambda x: conv(x).mean((1, 2, 3)).reshape(-1, 1),
    "extremes": lambda x: x.max((1, 2)) - x.min((1, 2)),
    "softmax": lambda x: jax.nn.softmax(x),
    "conv SAME": conv,
    "conv VALID, strides": lambda x: conv(x, padding="VALID", strides=(2, 1)),
    "conv, uneven padding": lambda x: conv(x, padding=((0, 2), (3, 1))),
    "conv, cropped": lambda x: conv(x, padding=((-1, 2), (0, -1))),
    "conv, dilation": lambda x: conv(x, dilation=(2, 1)),
    "conv, groups": lambda x: conv(x, groups=2),
    "conv with a norm": lambda x: K.relu(conv(x) * 3 - 1) / 2,
    "max-pool": lambda x: K.max_pool(x, 3, strides=2, padding=1),
    "max-pool, dilation": lambda x: K.max_pool(x, 2, strides=1, dilation=2),
    "average pool": lambda x: K.avg_pool(x, 3, strides=2, padding=1),
    "average pool, padding not counted": lambda x: K.avg_pool(
        x, 3, strides=2, padding=1, count_include_pad=False
    ),
    "adaptive pool": lambda x: K.adaptive_avg_pool(x, (3, 2)),
    "adaptive pool to more": lambda x: K.adaptive_avg_pool(x[:, :4], (7, 7)),
    "dense": lambda x: x.mean((1, 2)) @ MATRIX + ROW[0, 0, :, :3],
    "dense, a norm behind": lambda x: (x.mean((1, 2)) @ MATRIX) * 3 - 1,
    "dense, transposed": lambda x: jax.lax.dot_general(
        x, MATRIX.T, (((3,), (1,)), ((), ()))
    ),
    "dense on images": lambda x: x @ MATRIX,
    "layer norm": lambda x: K.layer_norm(conv(x), *SCALES, epsilon=1e-6),
    "group norm": lambda x: K.group_norm(conv(x), *SCALES, num_groups=3, epsilon=1e-6),
    "local response norm": lambda x: K.local_response_norm(x),
    "one-dimensional": lambda x: K.conv(x[:, 0], FILTERS[0]).mean(1),
}


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", CASES)
def test_agrees(name, runtime):
    images = np.random.default_rng(1).normal(size=(3, 8, 7, 4)).astype(np.float32)
    graph = fold(trace_function(CASES[name], images.shape[1:], images.dtype))
    about = describe(
        "lenet5",
        type("Model", (), {"num_classes": 3}),
        Preprocessing(8, None, None, channels=4),
        None,
        normalized=True,
    )
    content = to_model(graph, about).SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (3, 1):
        (found,) = session.run(None, {"images": images[:batch]})
        expected = CASES[name](images[:batch])
        np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_every_operator_is_in_a_case():
    used = set()
    for function in CASES.values():
        images = jax.ShapeDtypeStruct((3, 8, 7, 4), np.float32)
        with K.target_platform("tpu"):
            _collect(jax.make_jaxpr(function)(images).jaxpr, used)
    assert set(OPERATORS) - used <= {"add_any"}  # of backward passes


def _collect(jaxpr, used):
    for equation in jaxpr.eqns:
        used.add(equation.primitive.name)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda each: hasattr(each, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                _collect(inner.jaxpr, used)
