import jax
import jax.numpy as jnp
import pytest

from cnn_jax.analysis.residuals import residual_bytes, residuals


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def described(fn, *args):
    return sorted(f"{leaf.dtype}{list(leaf.shape)}" for leaf in residuals(fn, *args))


def test_a_linear_function_saves_nothing():
    assert residual_bytes(lambda x: 2.0 * x.sum(), floats(4, 5)) <= 4  # the factor


def test_a_product_saves_what_the_other_factor_needs():
    assert described(jnp.matmul, floats(2, 3), floats(3, 5)) == [
        "float32[2, 3]",
        "float32[3, 5]",
    ]
    assert residual_bytes(jnp.matmul, floats(2, 3), floats(3, 5)) == 4 * (6 + 15)


def test_an_array_saved_twice_counts_once():
    def twice(x):
        return x * x, x * jnp.flip(x)

    assert residual_bytes(twice, floats(8)) == 2 * 8 * 4  # x and its mirror image
    assert residual_bytes(lambda x: x * x, floats(8)) == 8 * 4


def test_equal_shapes_are_not_equal_arrays():
    def chain(x):
        return jnp.sin(jnp.sin(x))

    assert residual_bytes(chain, floats(8)) == 2 * 8 * 4


def test_integers_and_keys_are_held_and_count_where_they_are_saved():
    labels = jax.ShapeDtypeStruct((6,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    @jax.custom_vjp
    def fn(x, labels, key):
        return x

    fn.defvjp(lambda x, labels, key: (x, (labels, key)), lambda _, dy: (dy, None, None))
    assert residual_bytes(fn, floats(6), labels, key) == 6 * 4 + 8
    assert residual_bytes(lambda x, labels: x + labels, floats(6), labels) == 0


def test_needs_something_to_differentiate_by():
    with pytest.raises(ValueError, match="no floating-point argument"):
        residuals(lambda x: x, jax.ShapeDtypeStruct((2,), jnp.int32))
