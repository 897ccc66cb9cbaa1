"""Programs for a GPU hold no operation whose order of additions is left to chance.

XLA refuses them under `--xla_gpu_exclude_nondeterministic_ops`: a scatter, and a
select-and-scatter most of all, which is what JAX's own max-pool is differentiated into.
No GPU is needed to look: the programs are lowered for CUDA and searched.
"""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import cnn_jax
from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES
from cnn_jax.analysis.gradcheck import pull_back
from cnn_jax.kernels import autodiff
from cnn_jax.training import TrainState, train_step


def scatters(fn, *args):
    """Returns the scattering operations in `fn` lowered for CUDA."""
    with kernels.target_platform("gpu"):
        lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=("cuda",))
    return set(re.findall(r"\bstablehlo\.(\w*scatter)\b", lowered.as_text()))


def network(module):
    """A train step of a small residual network, on the kernels or on their twins."""
    conv = module.conv

    def norm(x, p):
        y, _, _ = module.batch_norm(x, p["scale"], p["bias"], epsilon=1e-5)
        return y

    def loss_fn(params, images, labels, key):
        x = module.relu(norm(conv(images, params["stem"], strides=2), params["norm1"]))
        x = module.max_pool(x, 3, strides=2, padding=1)
        y = module.relu(norm(conv(x, params["block1"]), params["norm2"]))
        x = module.relu(x + norm(conv(y, params["block2"]), params["norm3"]))
        x = module.dropout(module.global_avg_pool(x), key, 0.5)
        logits = module.dense(x, params["head"]["w"], params["head"]["b"])
        return jnp.mean(module.softmax_cross_entropy(logits, labels))

    def step(params, images, labels, key):
        gradients = jax.grad(loss_fn)(params, images, labels, key)
        return jax.tree.map(lambda w, g: w - 0.1 * g, params, gradients)

    def floats(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    vectors = {"scale": floats(8), "bias": floats(8)}
    params = {
        "stem": floats(3, 3, 3, 8),
        "block1": floats(3, 3, 8, 8),
        "block2": floats(3, 3, 8, 8),
        "norm1": vectors,
        "norm2": vectors,
        "norm3": vectors,
        "head": {"w": floats(8, 10), "b": floats(10)},
    }
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return step, params, floats(4, 32, 32, 3), labels, key


def test_a_train_step_with_max_pool_scatters_nothing():
    assert scatters(*network(kernels)) == set()


def test_on_the_twins_the_same_step_scatters():
    assert "select_and_scatter" in scatters(*network(autodiff))


def test_resnet20_trains_without_scatters():
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = {
        "image": jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    model, optimizer = cnn_jax.create_model("resnet20"), optax.sgd(0.1, momentum=0.9)
    create = functools.partial(TrainState.create, model, optimizer)
    state = jax.eval_shape(create, key, batch["image"])
    # Optax has scalars of its own dtype.
    with jax.numpy_dtype_promotion("standard"):
        assert scatters(train_step, state, batch, key) == set()


@pytest.mark.parametrize("kernel", dict.fromkeys(case.kernel for case in CASES))
def test_no_kernel_scatters_forward_or_backward(kernel):
    cases = [case for case in CASES if case.kernel == kernel]
    arguments = [case.draw(0, jnp.float32) for case in cases]

    def every_case(module, arguments):
        results = []
        for case, drawn in zip(cases, arguments, strict=True):
            fn = getattr(module, kernel)
            output = jax.eval_shape(functools.partial(case.apply, fn), drawn)
            ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), output)
            results.append(pull_back(fn, case, drawn, ones))
        return results

    assert scatters(functools.partial(every_case, kernels), arguments) == set()
    if kernel == "max_pool":  # what is searched for can be found
        found = scatters(functools.partial(every_case, autodiff), arguments)
        assert "select_and_scatter" in found
