"""Arrays of more than 2^31 entries a channel, as a whole pod has: traced alone."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels as K

SIDE = 2**16  # SIDE x SIDE is more than an int32 counts


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def normalized(x, scale, bias):
    y, mean, var = K.batch_norm(x, scale, bias, epsilon=1e-5)
    return y.sum() + mean.sum() + var.sum()


BATCH, IMAGE, CHANNELS = shape(2**26, 8, 8, 4), shape(1, SIDE, SIDE, 4), shape(4)

CASES = {
    "batch norm": (normalized, BATCH, CHANNELS, CHANNELS),
    "group norm": (
        lambda x, *affine: K.group_norm(x, *affine, num_groups=2, epsilon=1e-5),
        *(IMAGE, CHANNELS, CHANNELS),
    ),
    "layer norm": (
        lambda x, *affine: K.layer_norm(x, *affine, epsilon=1e-5),
        *(IMAGE, CHANNELS, CHANNELS),
    ),
    "average over an image": (K.global_avg_pool, IMAGE),
    "average over windows": (lambda x: K.avg_pool(x, 2), BATCH),
    "maximum over windows": (lambda x: K.max_pool(x, 2), BATCH),
    "convolution": (K.conv, BATCH, shape(3, 3, 4, 8), shape(8)),
    "dense": (K.dense, shape(2**33, 4), shape(4, 8), shape(8)),
    "dropout": (lambda x: K.dropout(x, jax.random.key(0), 0.5), BATCH),
    "squeeze and excite": (
        lambda *operands: K.squeeze_excite(*operands),
        *(IMAGE, shape(4, 2), shape(2), shape(2, 4), CHANNELS),
    ),
    "DropBlock": (
        lambda x: K.drop_block(x, jax.random.key(0), 0.1, block_size=3),
        BATCH,
    ),
    "loss": (
        lambda logits: K.softmax_cross_entropy(
            logits, jnp.zeros(logits.shape[:1], jnp.int32)
        ),
        shape(2**33, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_traced(name):
    function, *operands = CASES[name]

    def loss(*operands):
        return jnp.sum(function(*operands))

    numbers = tuple(range(len(operands)))
    gradients = jax.eval_shape(jax.grad(loss, argnums=numbers), *operands)
    assert [each.shape for each in gradients] == [each.shape for each in operands]
