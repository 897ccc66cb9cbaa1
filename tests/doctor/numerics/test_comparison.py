"""Names of layers: planted wrong kernels, and a compiler that is wrong."""

import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import kernels, layers
from cnn_jax.doctor.numerics import check_numerics, first_of
from cnn_jax.doctor.numerics.comparison import WAYS, Reference
from cnn_jax.doctor.numerics.steps import Way
from cnn_jax.kernels import autodiff

ROOT = pathlib.Path(__file__).parents[3]
SHAPE = (8, 8, 3)
PLAIN, _, JITTED, TWINS_JITTED = WAYS[:4]


class Net(nn.Module):
    """Two convolutions, a norm, a branch around the second, a pool and a head."""

    dtype: jnp.dtype
    has_more: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns the logits."""
        if self.has_more:
            x = kernels.avg_pool(x, 1)
        dtypes = {"dtype": self.dtype, "param_dtype": self.dtype}
        x = layers.Conv(4, 3, name="first", **dtypes)(x)
        x = layers.BatchNorm(use_running_average=not train, name="norm", **dtypes)(
            x, activation=kernels.relu
        )
        x = x + layers.Conv(4, 3, name="second", **dtypes)(x)
        x = kernels.max_pool(x, 2)
        x = layers.Dropout(0.5, deterministic=not train)(x)
        return layers.Dense(3, name="head", **dtypes)(kernels.global_avg_pool(x))


def wrong_value(x, w, b=None, **options):
    """A convolution that loses its first row, for one shape of the filter."""
    y = kernels_conv(x, w, b, **options)
    return y.at[:, 0].set(0) if w.shape[2] == 4 else y


kernels_conv = kernels.conv


@jax.custom_vjp
def scaled(x):
    return x


scaled.defvjp(lambda x: (x, None), lambda _, dy: (1.05 * dy,))


def wrong_vjp(x, w, b=None, **options):
    """A convolution with the right value, whose dw is 5 % too big for one shape."""
    return kernels_conv(x, scaled(w) if w.shape[2] == 4 else w, b, **options)


@pytest.fixture(scope="module")
def told():
    """Returns the list that the reference tells its progress to."""
    return []


@pytest.fixture(scope="module")
def reference(told):
    return Reference(Net, SHAPE, 2, 0, told.append)


def test_a_sound_network_has_no_difference(reference, told):
    found = [reference.compare(way) for way in (PLAIN, JITTED, TWINS_JITTED)]
    assert first_of(found) is None
    assert [each.difference for each in found] == [None] * 3
    # Far from the tolerance, and not compared with itself.
    assert all(0 < each.worst < 0.5 for each in found)
    assert found[0].num_arrays == 1 + 8  # the loss, and a gradient for each parameter
    assert found[1].num_arrays == found[2].num_arrays > 30
    assert told[0] == "drawing a batch"
    assert len(told) == 2 + 2


def test_a_wrong_value_has_the_name_of_its_layer(reference, monkeypatch):
    monkeypatch.setattr(kernels, "conv", wrong_value)
    found = [reference.compare(way) for way in (PLAIN, JITTED)]
    assert found[0].difference.array == "loss"
    assert found[1].difference.layer == "second (conv)"
    assert found[1].difference.array == "output"
    assert found[1].difference.error > 0.1 > 1e3 * found[1].difference.tolerance
    assert first_of(found) is found[1]


def test_a_wrong_vjp_has_the_name_of_its_layer(reference, monkeypatch):
    monkeypatch.setattr(kernels, "conv", wrong_vjp)
    found = [reference.compare(way) for way in (PLAIN, JITTED)]
    difference = found[1].difference
    assert (difference.layer, difference.array) == ("second (conv)", "gradient of w")
    assert difference.error == pytest.approx(0.05, rel=1e-2)
    # The program that runs in training: by the gradient of the parameter.
    difference = found[0].difference
    assert (difference.layer, difference.array) == ("second", "gradient of kernel")


def test_the_kernels_are_in_their_place_again(reference):
    assert kernels.conv is kernels_conv
    assert kernels.conv is not autodiff.conv
    assert layers.conv_norm.is_fused(kernels.relu)


@pytest.mark.nightly
def test_every_way_of_a_sound_network():
    found = check_numerics(Net, SHAPE, batch_size=2)
    assert first_of(found) is None
    assert [each.way for each in found] == list(map(str, WAYS))
    assert all(each.worst < 0.5 for each in found)


def test_a_network_that_depends_on_the_dtype_is_refused(reference, monkeypatch):
    monkeypatch.setattr(reference, "_model", lambda dtype: Net(dtype, has_more=True))
    with pytest.raises(ValueError, match="other layers"):
        reference.compare(JITTED)


# In a process of its own: this one runs XLA at another level.
MISCOMPILED = """
import json
import flax.linen as nn
import jax
import jax.numpy as jnp
from cnn_jax import kernels
from cnn_jax.doctor.numerics import check_numerics, first_of
from cnn_jax.doctor.numerics.comparison import WAYS

class Energy(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        # Without a gradient: what it would need is kept, and nothing is fused.
        matrix = jnp.asarray([[1, 2, 0], [0, 1, 3], [2, 0, 1]], self.dtype)
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x.reshape(-1, 3))

class Net(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train=False):
        energy = Energy(self.dtype, name="energy")(x).reshape(len(x), -1)
        return nn.Dense(2, dtype=self.dtype, param_dtype=self.dtype, name="head")(
            energy
        )

found = check_numerics(Net, (200, 200, 3), batch_size=1, ways=WAYS[:4])
print(json.dumps([each.difference and each.difference.layer for each in found]))
"""


@pytest.mark.slow
def test_a_compiler_that_is_wrong():
    """Jax issue 39103, in a network that has what it takes."""
    if jax.__version__ != "0.10.2" or jax.default_backend() != "cpu":
        pytest.skip("only jax 0.10.2 has the fault, on a CPU")
    done = subprocess.run(
        [sys.executable, "-c", MISCOMPILED],
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    layers_found = json.loads(done.stdout)
    print(layers_found)
    assert "energy" in layers_found


SMALL = ("lenet5", "resnet20", "vgg8_cifar", "efficientnet_cifar")


@pytest.mark.nightly
@pytest.mark.parametrize("name", SMALL)
def test_rounding_alone_alarms_nobody(name):
    info = cnn_jax.model_info(name)
    found = check_numerics(
        lambda dtype: cnn_jax.create_model(name, dtype=dtype, param_dtype=dtype),
        info.input_shape,
        batch_size=2,
        ways=WAYS,
    )
    assert first_of(found) is None, found


def test_ways_are_told_apart():
    assert len({str(way) for way in WAYS}) == len(WAYS) == 9
    assert str(Way("ours", True, "float32", False)).endswith("unrecorded")
    assert np.dtype("float64").itemsize == 8
