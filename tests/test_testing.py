import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels
from cnn_jax.kernels import autodiff
from cnn_jax.testing import assert_adjoint, assert_vjp_matches

pytestmark = pytest.mark.usefixtures("x64")


@jax.custom_vjp
def overstate(x):
    return x


# The forward pass is exact and the gradient 1 % too large.
overstate.defvjp(lambda x: (x, None), lambda _, dx: (1.01 * dx,))


def conv_with_error_in(planted):
    def conv(x, w, b):
        operands = {"x": x, "w": w, "b": b}
        operands[planted] = overstate(operands[planted])
        return kernels.conv(**operands, strides=2)

    return conv


def reference(x, w, b):
    return autodiff.conv(x, w, b, strides=2)


def draw(seed, dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = ((4, 16, 16, 8), (3, 3, 8, 5), (5,))
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("planted", ["x", "w", "b"])
def test_rejects_a_gradient_that_is_one_percent_off(planted):
    for seed in range(5):
        with pytest.raises(
            AssertionError, match=rf"gradient of .*\({planted}\).*0\.01 of"
        ):
            assert_vjp_matches(
                conv_with_error_in(planted),
                reference,
                *draw(seed),
                key=jax.random.key(seed),
            )


@pytest.mark.parametrize("planted", ["x", "w", "b"])
def test_rejects_it_in_float32_too(planted):
    with pytest.raises(AssertionError, match=rf"\({planted}\)"):
        assert_vjp_matches(
            conv_with_error_in(planted), reference, *draw(0, jnp.float32), rtol=1e-5
        )


def test_accepts_the_kernel():
    def conv(x, w, b):
        return kernels.conv(x, w, b, strides=2)

    for seed in range(5):
        assert_vjp_matches(conv, reference, *draw(seed), key=jax.random.key(seed))
    assert_vjp_matches(conv, reference, *draw(0, jnp.float32), rtol=1e-5)


def test_names_every_wrong_gradient_and_no_other():
    with pytest.raises(AssertionError) as raised:
        assert_vjp_matches(
            lambda x, w: overstate(x) * w * overstate(x),
            lambda x, w: x * w * x,
            jnp.arange(3.0),
            jnp.ones(3),
        )
    assert "(x)" in str(raised.value)
    assert "(w)" not in str(raised.value)


def test_cancellation_is_no_false_alarm():
    # Element by element the sums differ in every digit; beside the terms they agree.
    x = jnp.asarray([1.0, -1.0, 1e-17, 3.0])
    assert_vjp_matches(
        lambda x: jnp.stack([x[0] + x[1] + x[2], x[3]]),
        lambda x: jnp.stack([x[0] + x[2] + x[1], x[3]]),
        x,
    )


@jax.custom_vjp
def gradient_of_nan(x):
    return x


gradient_of_nan.defvjp(lambda x: (x, None), lambda _, dx: (dx * jnp.nan,))


def test_nan_never_passes():
    x = jnp.ones(3)
    with pytest.raises(AssertionError, match="output: fn has NaN"):
        assert_vjp_matches(lambda x: x * jnp.nan, lambda x: x, x)
    with pytest.raises(AssertionError, match="output: fn has NaN"):
        assert_vjp_matches(lambda x: x * jnp.nan, lambda x: x * jnp.nan, x)
    with pytest.raises(AssertionError, match="output: the reference has NaN"):
        assert_vjp_matches(lambda x: x, lambda x: x * jnp.nan, x)
    for both in (lambda x: x, gradient_of_nan):
        with pytest.raises(AssertionError, match=r"gradient of .* has NaN"):
            assert_vjp_matches(gradient_of_nan, both, x)


def test_infinities_must_agree():
    x = jnp.asarray([1.0, jnp.inf])
    assert_vjp_matches(lambda x: x, lambda x: x, x)
    for other in (lambda x: -x, lambda x: jnp.ones_like(x)):
        with pytest.raises(AssertionError, match="output"):
            assert_vjp_matches(lambda x: x, other, x)


def test_compares_the_plain_output_and_the_one_under_vjp():
    @jax.custom_vjp
    def double(x):
        return 2.0 * x

    double.defvjp(lambda x: (2.02 * x, None), lambda _, dy: (2.0 * dy,))
    with pytest.raises(AssertionError, match=r"output under jax\.vjp"):
        assert_vjp_matches(double, lambda x: 2.0 * x, jnp.ones(3))
    with pytest.raises(AssertionError, match=r"output: off by 0\.01"):
        assert_vjp_matches(lambda x: 1.01 * x, lambda x: x, jnp.ones(3))


def test_trees_integers_keys_and_several_outputs():
    def model(params, x, labels, key, scale):
        y = x @ params["w"] + params["b"]
        return {"y": y * scale, "label": labels + 1}, jax.random.uniform(key)

    def wrong(params, x, labels, key, scale):
        return model(
            {"w": params["w"], "b": overstate(params["b"])}, x, labels, key, scale
        )

    arguments = (
        {"w": jnp.ones((3, 2)), "b": jnp.ones((1, 2))},
        np.ones((4, 3)),
        jnp.arange(4),
        jax.random.key(1),
        2.0,
    )
    assert_vjp_matches(model, model, *arguments)
    with pytest.raises(AssertionError, match=re.escape("argument 0 (params)['b']")):
        assert_vjp_matches(wrong, model, *arguments)
    with pytest.raises(AssertionError):
        assert_vjp_matches(
            lambda x, n: (x, n + 1), lambda x, n: (x, n), jnp.ones(3), jnp.arange(3)
        )


def test_shapes_dtypes_and_structures_must_agree():
    x = jnp.ones((3, 1))
    with pytest.raises(AssertionError, match=r"got float64\[3\]"):
        assert_vjp_matches(lambda x: x[:, 0], lambda x: x, x)
    with pytest.raises(AssertionError, match="got float32"):
        assert_vjp_matches(lambda x: x.astype(jnp.float32), lambda x: x, x)
    with pytest.raises(AssertionError, match="structure"):
        assert_vjp_matches(lambda x: (x, x), lambda x: x, x)


def test_says_what_to_do_about_low_precision():
    with pytest.raises(AssertionError, match="enable_x64"):
        assert_vjp_matches(lambda x: x * 1.00001, lambda x: x, jnp.ones(3, jnp.float32))


def test_nothing_to_differentiate_is_an_error():
    with pytest.raises(ValueError, match="no floating-point array"):
        assert_vjp_matches(lambda n, s: n, lambda n, s: n, jnp.arange(3), 1.0)


def test_the_key_draws_the_cotangent():
    # Wrong only in the first entry: seen through a cotangent that is not zero there.
    @jax.custom_vjp
    def fn(x):
        return x

    seen = []
    fn.defvjp(lambda x: (x, None), lambda _, dy: (seen.append(dy) or dy,))
    for seed in (0, 0, 1):
        assert_vjp_matches(fn, lambda x: x, jnp.ones(3), key=jax.random.key(seed))
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_adjoint_of_a_tree_valued_map():
    w = jax.random.normal(jax.random.key(0), (3, 3, 2, 4), jnp.float64)

    def fn(tree):
        return kernels.conv(tree["x"], w, tree["b"], strides=2)

    tree = {"x": jnp.ones((2, 5, 5, 2)), "b": jnp.arange(4.0)}

    def transpose(y):
        return jax.vjp(fn, tree)[1](y)[0]

    for seed in range(5):
        key = jax.random.key(seed)
        assert_adjoint(fn, transpose, tree, key=key)
        for name in tree:
            with pytest.raises(AssertionError, match="they differ by"):
                assert_adjoint(
                    fn,
                    lambda y, name=name: (
                        transpose(y) | {name: 1.01 * transpose(y)[name]}
                    ),
                    tree,
                    key=key,
                )


def test_adjoint_rejects_nan_and_wrong_shapes():
    x = jnp.ones(3)
    with pytest.raises(AssertionError, match="differ"):
        assert_adjoint(lambda x: x, lambda y: y * jnp.nan, x)
    with pytest.raises(AssertionError, match="expected"):
        assert_adjoint(lambda x: x, lambda y: y[:2], x)
