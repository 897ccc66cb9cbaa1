"""Layers of other libraries with `kernels.conv_general_dilated` in lax's place."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.flax_equality import assert_equals_flax
from jax import lax

from cnn_jax import kernels
from cnn_jax.analysis.gradcheck import FAST_COMPILATION, draw_like

OURS = kernels.conv_general_dilated

CASES = {
    "strides": ((2, 7, 6, 4), {"kernel_size": (3, 3), "strides": (2, 1)}),
    "groups": ((2, 6, 5, 4), {"kernel_size": (3, 2), "feature_group_count": 2}),
    "1-d, causal": ((2, 9, 4), {"kernel_size": (3,), "padding": "CAUSAL"}),
    "1-d, circular, dilated": (
        (2, 9, 4),
        {"kernel_size": (3,), "padding": "CIRCULAR", "kernel_dilation": 2},
    ),
    "circular, stride 2": (
        (2, 6, 7, 4),
        {"kernel_size": (3, 4), "padding": "CIRCULAR", "strides": 2},
    ),
    "reflected": ((2, 6, 7, 4), {"kernel_size": (3, 3), "padding": "REFLECT"}),
    "mask": (
        (2, 6, 5, 4),
        {"kernel_size": (3, 3), "mask": np.tri(3)[:, :, None, None]},
    ),
    "3-d": ((2, 4, 3, 5, 2), {"kernel_size": (2, 3, 2), "strides": (1, 2, 1)}),
    "input dilation": (
        (2, 4, 3, 4),
        {"kernel_size": (3, 3), "input_dilation": (2, 3), "padding": 1},
    ),
    "input dilation and strides": (
        (2, 4, 3, 4),
        {
            "kernel_size": (3, 3),
            "input_dilation": 2,
            "strides": 3,
            "padding": ((1, 0), (2, 2)),
        },
    ),
    "no batch": ((6, 5, 4), {"kernel_size": (3, 3)}),
    "two batches": ((2, 3, 6, 5, 4), {"kernel_size": (3, 3)}),
}


@pytest.mark.parametrize("case", CASES)
def test_flax_conv_keeps_its_values_and_gradients(case, x64, generator):
    shape, fields = CASES[case]
    fields = {"features": 6, "param_dtype": jnp.float64, **fields}
    if "mask" in fields:
        fields["mask"] = jnp.broadcast_to(fields["mask"], (3, 3, 4, 6))
    stock = nn.Conv(**fields)
    ours = nn.Conv(**fields, conv_general_dilated=OURS)
    x = draw_like(jnp.ones(shape), 0)
    assert_equals_flax(ours, stock, x, generator, rtol=1e-11, atol=1e-12)


class Net(nn.Module):
    """Every kind of convolution that has a form of its own."""

    conv_general_dilated: object = None

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(
            nn.Conv,
            conv_general_dilated=self.conv_general_dilated,
            param_dtype=jnp.float64,
            kernel_init=nn.initializers.he_normal(),
        )
        x = nn.relu(conv(8, (3, 3), strides=2, name="strided")(x))
        x = nn.relu(conv(8, (3, 3), kernel_dilation=2, name="dilated")(x))
        x = nn.relu(conv(8, (3, 3), feature_group_count=2, name="grouped")(x))
        x = nn.relu(conv(16, (3, 3), feature_group_count=8, name="depthwise")(x))
        x = nn.relu(conv(16, (1, 1), name="pointwise")(x))
        x = nn.relu(conv(16, (3, 3), strides=2, padding=1, name="strided_2")(x))
        x = nn.relu(conv(4, (3, 3), input_dilation=2, padding=1, name="spread")(x))
        return x.mean((1, 2))


@pytest.mark.slow
def test_training_takes_the_same_course(x64):
    """20 steps of SGD with momentum, float64: equal losses at every step."""
    labels = jnp.arange(8) % 4
    scale = labels.astype(jnp.float64)[:, None, None, None]
    x = draw_like(jnp.ones((8, 11, 12, 3)), 0) * scale
    optimizer = optax.sgd(0.05, momentum=0.9)
    init = jax.jit(Net().init, compiler_options=FAST_COMPILATION)
    variables = init(jax.random.key(0), x)

    def losses(model):
        def loss_fn(variables):
            logits = model.apply(variables, x)
            log_probabilities = jax.nn.log_softmax(logits)
            return -jnp.mean(log_probabilities[jnp.arange(8), labels])

        @jax.jit
        def step(variables, state):
            loss, gradients = jax.value_and_grad(loss_fn)(variables)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(variables, updates), state, loss

        current, state, course = variables, optimizer.init(variables), []
        for _ in range(20):
            current, state, loss = step(current, state)
            course.append(float(loss))
        return course

    stock, ours = losses(Net()), losses(Net(conv_general_dilated=OURS))
    assert stock[-1] < 0.7 * stock[0]
    np.testing.assert_allclose(ours, stock, rtol=1e-10, atol=0)


# How Haiku's ConvND and Equinox's Conv and ConvTranspose call lax.
CALLS = {
    "haiku, channels last": (
        (2, 6, 5, 4),
        (3, 3, 2, 6),
        {
            "window_strides": (2, 1),
            "padding": "SAME",
            "lhs_dilation": (1, 1),
            "rhs_dilation": (1, 2),
            "dimension_numbers": lax.ConvDimensionNumbers(
                (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
            ),
            "feature_group_count": 2,
            "precision": None,
        },
    ),
    "haiku, channels first": (
        (2, 4, 6, 5),
        (3, 3, 4, 6),
        {
            "window_strides": (1, 1),
            "padding": [(1, 1), (0, 2)],
            "lhs_dilation": (1, 1),
            "rhs_dilation": (1, 1),
            "dimension_numbers": lax.ConvDimensionNumbers(
                (0, 1, 2, 3), (3, 2, 0, 1), (0, 1, 2, 3)
            ),
            "feature_group_count": 1,
            "precision": lax.Precision.HIGHEST,
        },
    ),
    "equinox": (
        (1, 4, 6, 5),
        (6, 2, 3, 3),
        {
            "window_strides": (2, 2),
            "padding": ((1, 1), (1, 1)),
            "rhs_dilation": (1, 1),
            "feature_group_count": 2,
        },
    ),
    "equinox, transposed": (
        (1, 4, 3, 4),
        (6, 4, 3, 3),
        {
            "window_strides": (1, 1),
            "padding": ((1, 2), (1, 2)),
            "lhs_dilation": (2, 2),
            "rhs_dilation": (1, 1),
            "feature_group_count": 1,
        },
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_direct_calls_of_other_libraries(call, x64):
    lhs_shape, rhs_shape, options = CALLS[call]
    lhs, rhs = draw_like([jnp.ones(lhs_shape), jnp.ones(rhs_shape)], 0)

    @functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILATION)
    def value_and_gradients(fn, lhs, rhs):
        y, pullback = jax.vjp(
            lambda lhs, rhs: fn(lhs=lhs, rhs=rhs, **options), lhs, rhs
        )
        return y, pullback(jnp.sin(y))

    chex.assert_trees_all_close(
        value_and_gradients(OURS, lhs, rhs),
        value_and_gradients(lax.conv_general_dilated, lhs, rhs),
        rtol=1e-11,
        atol=1e-12,
    )
