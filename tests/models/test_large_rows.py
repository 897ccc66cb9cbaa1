"""Networks whose first products have more than 32,768 rows: jitted as op by op.

See `kernels/test_large_rows`. The rows of a product are batch x height x width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import kernels

ROWS = 32_768

# The smallest network of each family, its images, and by how much its first
# convolution shrinks a side.
NETWORKS = {
    "lenet5": (32, 1, 1),
    "resnet20": (32, 3, 1),
    "plain20": (32, 3, 1),
    "nin_cifar": (32, 3, 1),
    "vgg8_cifar": (32, 3, 1),
    "efficientnet_cifar": (32, 3, 1),
    "alexnet": (64, 3, 4),
    "zfnet": (64, 3, 2),
    "squeezenet1_1": (64, 3, 2),
    "mobilenet_v1_0_25": (64, 3, 2),
    "mobilenet_v2": (64, 3, 2),
    "mobilenet_v3_small": (64, 3, 2),
    "mnasnet0_5": (64, 3, 2),
    "shufflenet_v2_x0_5": (64, 3, 2),
    "efficientnet_v2_s": (64, 3, 2),
    "resnet18": (64, 3, 2),
    "resnetv2_18": (64, 3, 2),
    "seresnet50": (64, 3, 2),
    "resnext50_32x4d": (64, 3, 2),
    "convnext_tiny": (64, 3, 4),
    "densenet121": (64, 3, 2),
    "googlenet": (64, 3, 2),
    "inception_v3": (96, 3, 2),
    "xception": (96, 3, 2),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETWORKS)
def test_value_and_gradients(name, generator):
    size, channels, shrinks = NETWORKS[name]
    batch = ROWS // (size // shrinks) ** 2 + 1
    model = cnn_jax.create_model(name, num_classes=10)
    x = generator.standard_normal((batch, size, size, channels)).astype(np.float32)
    labels = jnp.asarray(generator.integers(0, 10, batch), jnp.int32)
    # Evaluation mode: no chance, and no statistics that amplify a rounding.
    variables = jax.jit(lambda key: model.init(key, x[:1], train=False))(
        jax.random.key(0)
    )
    state = {name: of for name, of in variables.items() if name != "params"}

    def loss(params, x):
        logits = model.apply({"params": params, **state}, x, train=False)
        return kernels.softmax_cross_entropy(logits, labels).mean(), logits

    everything = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    fused = jax.jit(everything)(variables["params"], x)
    with jax.disable_jit():
        one_by_one = everything(variables["params"], x)
    for got, wanted in zip(
        jax.tree.leaves(fused), jax.tree.leaves(one_by_one), strict=True
    ):
        # Norms: a row that is read wrongly is off by its own size, and a deep network
        # amplifies a rounding in a few entries.
        error = np.linalg.norm(np.ravel(got - wanted))
        assert error <= 2e-3 * np.linalg.norm(np.ravel(wanted)) + 1e-8
