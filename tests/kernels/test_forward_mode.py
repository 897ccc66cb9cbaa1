"""Forward mode of a kernel: the error names it and its twin, wherever it can."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.transformations import first_cases

from cnn_jax import kernels, layers
from cnn_jax.analysis.cases import is_floating
from cnn_jax.kernels import autodiff

# These are linear or raw: no custom VJP, so forward mode works.
RAW = {
    "conv_input_grad",
    "conv_filter_grad",
    "conv_bias_grad",
    "max_pool_grad",
    "avg_pool_grad",
}
CASES = {label: case for label, case in first_cases().items() if case.kernel not in RAW}


@pytest.mark.parametrize("label", CASES)
@pytest.mark.usefixtures("x64")
def test_every_kernel_names_itself_and_its_twin(label):
    case = CASES[label]
    arguments = case.draw(0)
    floating = {n: a for n, a in arguments.items() if is_floating(a)}

    def tangent(fn, floating):
        value = lambda some: case.apply(fn, {**arguments, **some})  # noqa: E731
        return jax.jvp(value, (floating,), (floating,))

    fn, twin = (getattr(each, case.kernel) for each in (kernels, autodiff))
    # Traced as under jit, where JAX itself would raise only when it lowers.
    with pytest.raises(
        TypeError, match=rf"^{case.kernel}: .*kernels\.autodiff\.{case.kernel},"
    ):
        jax.eval_shape(functools.partial(tangent, fn), floating)
    jax.eval_shape(functools.partial(tangent, twin), floating)


def conv(x, w):
    return kernels.conv(x, w)


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda x, w: jax.jvp(conv, (x, w), (x, w)),
        lambda x, w: jax.jit(lambda x: jax.jvp(lambda x: conv(x, w), (x,), (x,)))(x),
        lambda x, w: jax.jacfwd(lambda s: conv(s * x, w))(1.0),
        lambda x, w: jax.jvp(jax.vmap(lambda r: conv(r[None], w)), (x,), (x,)),
        lambda x, w: jax.vmap(lambda t: jax.jvp(lambda x: conv(x, w), (x,), (t,)))(
            x[None]
        ),
        lambda x, w: jax.grad(
            lambda x: jnp.sum(jax.jvp(lambda x: conv(x, w), (x,), (x,))[1])
        )(x),
    ],
    ids=["jvp", "jit(jvp)", "jacfwd", "jvp(vmap)", "vmap(jvp)", "grad(jvp)"],
)
def test_under_other_transformations(differentiate):
    with pytest.raises(TypeError, match=r"conv: .*forward.*kernels\.autodiff\.conv,"):
        differentiate(jnp.ones((2, 4, 4, 2)), jnp.ones((3, 3, 2, 2)))


def test_in_a_network():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return kernels.relu(layers.Conv(2, 3, name="conv")(x))

    x = jnp.ones((1, 4, 4, 2))
    variables = Net().init(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"conv: .*kernels\.autodiff\.conv,"):
        jax.jvp(lambda x: Net().apply(variables, x), (x,), (x,))


def test_what_has_no_derivative_of_ours_has_forward_mode():
    x = jnp.ones((2, 3))
    _, tangent = jax.jvp(
        lambda x: kernels.dropout(x, jax.random.key(0), 0.0), (x,), (x,)
    )
    assert tangent.shape == x.shape


def test_programs_traced_before_raise_the_error_of_jax():
    """No code here runs when JAX reaches the tangents: linearize can be transposed."""
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(jax.jit(lambda x: conv(x, w)), (x,), (x,))
    y, along = jax.linearize(lambda x: conv(x, w), x)
    with pytest.raises(TypeError, match="custom_vjp"):
        along(x)
    (transposed,) = jax.linear_transpose(along, x)(y)
    _, pull_back = jax.vjp(lambda x: conv(x, w), x)
    assert jnp.array_equal(transposed, pull_back(y)[0])
