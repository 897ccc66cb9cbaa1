"""The shared blocks against the same blocks written with flax.linen."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.flax_equality import assert_equals_flax

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    Conv,
    ConvNormActivation,
    Dense,
    DepthwiseSeparable,
    FusedInvertedBottleneck,
    InvertedBottleneck,
    SqueezeExcite,
    StochasticDepth,
)

FLOAT64 = {"param_dtype": jnp.float64}


class FlaxConvNormActivation(nn.Module):
    features: int
    size: int = 3
    strides: int = 1
    padding: int = 1
    groups: int = 1
    dilation: int = 1
    normalized: bool = True
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            use_bias=not self.normalized,
            name="conv",
            **FLOAT64,
        )(x)
        if self.normalized:
            x = nn.BatchNorm(
                use_running_average=False,
                momentum=0.9,
                force_float32_reductions=False,
                name="norm",
                **FLOAT64,
            )(x)
        return self.activation(x)


class FlaxDepthwiseSeparable(nn.Module):
    features: int
    size: int = 3
    strides: int = 1
    padding: object = 1
    between: object = nn.relu
    last: object = nn.relu

    @nn.compact
    def __call__(self, x):
        x = FlaxConvNormActivation(
            x.shape[-1],
            self.size,
            strides=self.strides,
            padding=self.padding,
            groups=x.shape[-1],
            activation=self.between,
            name="depthwise",
        )(x)
        return FlaxConvNormActivation(
            self.features, size=1, padding=0, activation=self.last, name="pointwise"
        )(x)


class FlaxSqueezeExcite(nn.Module):
    squeezed: int
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x):
        gate = x.mean((1, 2), keepdims=True)
        gate = self.activation(nn.Dense(self.squeezed, name="squeeze", **FLOAT64)(gate))
        gate = nn.Dense(x.shape[-1], name="expand", **FLOAT64)(gate)
        return x * nn.sigmoid(gate)


class FlaxInvertedBottleneck(nn.Module):
    features: int
    hidden: int
    size: int
    strides: int
    squeezed: int

    @nn.compact
    def __call__(self, x):
        layer = functools.partial(FlaxConvNormActivation, activation=nn.silu)
        y = x
        if self.hidden != x.shape[-1]:
            y = layer(self.hidden, size=1, padding=0, name="expand")(y)
        y = layer(
            self.hidden,
            size=self.size,
            strides=self.strides,
            padding=self.size // 2,
            groups=self.hidden,
            name="depthwise",
        )(y)
        if self.squeezed:
            y = FlaxSqueezeExcite(self.squeezed, nn.silu, name="squeeze_excite")(y)
        y = FlaxConvNormActivation(
            self.features, size=1, padding=0, activation=lambda y: y, name="project"
        )(y)
        if self.strides == 1 and self.features == x.shape[-1]:
            y = y + x
        return y


CONV = functools.partial(Conv, **FLOAT64)
NORM = functools.partial(BatchNorm, use_running_average=False, **FLOAT64)
DENSE = functools.partial(Dense, **FLOAT64)
PARTS = {"conv": CONV, "norm": NORM}


def inverted_bottleneck(features, hidden, size, strides, squeezed):
    gate = functools.partial(SqueezeExcite, squeezed, dense=DENSE, activation=K.silu)
    return InvertedBottleneck(
        features,
        hidden,
        kernel_size=size,
        strides=strides,
        squeeze_excite=gate if squeezed else None,
        stochastic_depth=functools.partial(StochasticDepth, 0.5, deterministic=True),
        **PARTS,
    )


PAIRS = {
    "conv_norm_activation": (
        ConvNormActivation(6, **PARTS),
        FlaxConvNormActivation(6),
    ),
    "even_input_at_stride_2": (
        ConvNormActivation(6, 5, strides=2, dilation=2, **PARTS),
        FlaxConvNormActivation(6, size=5, strides=2, dilation=2, padding=4),
    ),
    "without_norm_and_activation": (
        ConvNormActivation(6, groups=2, conv=CONV, norm=None, activation=None),
        FlaxConvNormActivation(6, groups=2, normalized=False, activation=lambda y: y),
    ),
    "activation_that_no_kernel_ends_in": (
        ConvNormActivation(6, activation=jnp.tanh, **PARTS),
        FlaxConvNormActivation(6, activation=jnp.tanh),
    ),
    "depthwise_separable": (
        DepthwiseSeparable(6, 5, **PARTS),
        FlaxDepthwiseSeparable(6, size=5, padding=2),
    ),
    "depthwise_separable_padded_by_the_caller_and_linear_inside": (
        DepthwiseSeparable(
            6,
            strides=2,
            padding=((0, 1), (0, 1)),
            depthwise_activation=None,
            pointwise_activation=K.relu6,
            **PARTS,
        ),
        FlaxDepthwiseSeparable(
            6,
            strides=2,
            padding=((0, 1), (0, 1)),
            between=lambda y: y,
            last=nn.relu6,
        ),
    ),
    "squeeze_excite": (SqueezeExcite(2, dense=DENSE), FlaxSqueezeExcite(2)),
    "squeeze_excite_with_an_activation_that_no_kernel_takes": (
        SqueezeExcite(2, dense=DENSE, activation=jnp.tanh),
        FlaxSqueezeExcite(2, activation=jnp.tanh),
    ),
    "squeeze_excite_with_layers_of_the_users": (
        SqueezeExcite(2, dense=functools.partial(nn.Dense, **FLOAT64)),
        FlaxSqueezeExcite(2),
    ),
    "mbconv_with_shortcut": (
        inverted_bottleneck(4, 8, 5, 1, 2),
        FlaxInvertedBottleneck(4, 8, 5, 1, 2),
    ),
    "mbconv_strided": (
        inverted_bottleneck(4, 8, 3, 2, 0),
        FlaxInvertedBottleneck(4, 8, 3, 2, 0),
    ),
    "mbconv_without_expansion": (
        inverted_bottleneck(6, 4, 3, 1, 1),
        FlaxInvertedBottleneck(6, 4, 3, 1, 1),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_equals_flax(pair, x64, generator):
    ours, theirs = PAIRS[pair]
    x = jnp.asarray(generator.normal(size=(3, 8, 8, 4)))
    assert_equals_flax(ours, theirs, x, generator)


def test_inverted_bottleneck_drops_its_branch_not_its_shortcut(generator):
    x = jnp.asarray(generator.normal(size=(16, 4, 4, 4)), jnp.float32)
    block = InvertedBottleneck(
        4,
        8,
        norm=functools.partial(BatchNorm, use_running_average=True),
        stochastic_depth=functools.partial(StochasticDepth, 0.5, deterministic=False),
    )
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    y, _ = jax.jit(block.init_with_output)(keys, x)
    unchanged = (y == x).all((1, 2, 3))
    assert 0 < unchanged.sum() < 16


@pytest.mark.parametrize("block", [InvertedBottleneck, FusedInvertedBottleneck])
def test_inverted_bottlenecks_pad_as_told(block):
    padding = {}

    def watch(next_fn, args, kwargs, context):
        if isinstance(context.module, Conv):
            padding["/".join(context.module.path)] = context.module.padding
        return next_fn(*args, **kwargs)

    norm = functools.partial(BatchNorm, use_running_average=True)
    layer = block(6, 8, kernel_size=5, strides=2, padding="SAME", norm=norm)
    x = jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)
    with nn.intercept_methods(watch):
        jax.eval_shape(layer.init, jax.random.key(0), x)
    assert [path for path, each in padding.items() if each == "SAME"] == [
        "depthwise/conv" if block is InvertedBottleneck else "fused/conv"
    ]


@pytest.fixture
def kernel_calls(monkeypatch):
    """The keywords of the calls of some kernels, by name."""
    calls = {}

    def watch(name):
        kernel = getattr(K, name)

        def watched(*arguments, **options):
            calls.setdefault(name, []).append(options)
            return kernel(*arguments, **options)

        monkeypatch.setattr(K, name, watched)

    for name in ("batch_norm", "batch_norm_inference", "squeeze_excite", "dense"):
        watch(name)
    return calls


class OwnNorm(BatchNorm):
    """A user's subclass, whose call takes no activation."""

    def __call__(self, x):
        return super().__call__(x)


@pytest.mark.parametrize("use_running_average", [True, False])
@pytest.mark.parametrize(
    ("norm", "activation", "inside"),
    [
        (BatchNorm, K.relu, K.relu),
        (BatchNorm, jnp.tanh, None),
        (BatchNorm, None, None),
        (OwnNorm, K.relu, None),
        (nn.BatchNorm, K.relu, None),
    ],
)
def test_norm_applies_the_activation_where_it_can(
    norm, activation, inside, use_running_average, kernel_calls, generator
):
    def module(activation):
        return ConvNormActivation(
            4,
            norm=functools.partial(norm, use_running_average=use_running_average),
            activation=activation,
        )

    x = jnp.asarray(generator.normal(size=(2, 4, 4, 3)), jnp.float32)
    variables = module(None).init(jax.random.key(0), x)
    plain, _ = module(None).apply(variables, x, mutable=["batch_stats"])
    kernel_calls.clear()
    y, _ = module(activation).apply(variables, x, mutable=["batch_stats"])
    chex.assert_trees_all_close(y, activation(plain) if activation else plain)
    kernel = "batch_norm_inference" if use_running_average else "batch_norm"
    if norm is nn.BatchNorm:
        assert not kernel_calls
    else:
        assert [call["activation"] for call in kernel_calls[kernel]] == [inside]


class OwnDense(Dense):
    """A user's subclass, which may do what it likes."""

    def __call__(self, x):
        return super().__call__(x)


@pytest.mark.parametrize(
    ("fields", "kernels"),
    [
        ({}, {"squeeze_excite": 1}),
        ({"dense": functools.partial(Dense, use_bias=True)}, {"squeeze_excite": 1}),
        ({"gate": jax.nn.hard_sigmoid}, {"dense": 2}),
        ({"dense": OwnDense}, {"dense": 2}),
        ({"dense": nn.Dense}, {}),
    ],
)
def test_squeeze_excite_is_one_kernel_where_it_can(fields, kernels, kernel_calls):
    SqueezeExcite(2, **fields).init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert {name: len(calls) for name, calls in kernel_calls.items()} == kernels


@pytest.mark.parametrize("use_bias", [True, False])
def test_squeeze_excite_is_the_same_composed(use_bias, x64, generator):
    fields = {"use_bias": use_bias, **FLOAT64}
    whole = SqueezeExcite(2, dense=functools.partial(Dense, **fields))
    composed = SqueezeExcite(2, dense=functools.partial(OwnDense, **fields))
    x = jnp.asarray(generator.normal(size=(2, 3, 3, 5)))
    y, variables = whole.init_with_output(jax.random.key(1), x)
    chex.assert_trees_all_equal(variables, composed.init(jax.random.key(1), x))
    chex.assert_trees_all_close(y, composed.apply(variables, x), rtol=1e-12)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("x_dtype", [jnp.bfloat16, jnp.float32])
def test_squeeze_excite_promotes_as_its_layers_would(x_dtype, dtype):
    x = jnp.ones((2, 3, 3, 4), x_dtype)
    with jax.numpy_dtype_promotion("standard"):
        whole, composed = (
            SqueezeExcite(2, dense=functools.partial(dense, dtype=dtype))
            for dense in (Dense, OwnDense)
        )
        y, variables = whole.init_with_output(jax.random.key(0), x)
        expected = composed.apply(variables, x)
    assert y.dtype == expected.dtype
    chex.assert_trees_all_close(
        *(leaf.astype(jnp.float32) for leaf in (y, expected)), rtol=0.02
    )
