"""The residual blocks against the same blocks written with flax.linen."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.flax_equality import assert_equals_flax

from cnn_jax.layers import (
    BasicBlock,
    BatchNorm,
    Bottleneck,
    Conv,
    Dense,
    Dropout,
    PreactivationBasicBlock,
    PreactivationBottleneck,
    SqueezeExcite,
    projection_shortcut,
    zero_padded_shortcut,
)

FLOAT64 = {"param_dtype": jnp.float64}
PARTS = {
    "conv": functools.partial(Conv, **FLOAT64),
    "norm": functools.partial(BatchNorm, use_running_average=False, **FLOAT64),
}
GATE = functools.partial(SqueezeExcite, dense=functools.partial(Dense, **FLOAT64))


def flax_conv(features, size, strides=1, groups=1, *, name):
    return nn.Conv(
        features,
        (size, size),
        strides=strides,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=False,
        name=name,
        **FLOAT64,
    )


def flax_norm(name):
    return nn.BatchNorm(
        use_running_average=False,
        momentum=0.9,
        force_float32_reductions=False,
        name=name,
        **FLOAT64,
    )


class FlaxConvNorm(nn.Module):
    conv: tuple

    @nn.compact
    def __call__(self, x):
        return flax_norm("norm")(flax_conv(*self.conv, name="conv")(x))


class FlaxGate(nn.Module):
    squeezed: int

    @nn.compact
    def __call__(self, x):
        y = x.mean((1, 2), keepdims=True)
        y = nn.relu(nn.Dense(self.squeezed, name="squeeze", **FLOAT64)(y))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="expand", **FLOAT64)(y))


class FlaxBlock(nn.Module):
    """Convolutions `(features, size, strides, groups)`, normalised, and a sum."""

    convs: tuple
    shortcut: str | None
    squeezed: int = 0

    @nn.compact
    def __call__(self, x):
        y = x
        for index, conv in enumerate(self.convs, start=1):
            y = FlaxConvNorm(conv, name=f"conv{index}")(y if index == 1 else nn.relu(y))
        if self.squeezed:
            y = FlaxGate(self.squeezed, name="squeeze_excite")(y)
        if self.shortcut == "projection":
            y = y + FlaxConvNorm((y.shape[-1], 1, 2), name="shortcut")(x)
        elif self.shortcut == "identity":
            y = y + x
        return nn.relu(y)


class FlaxPreactivationBlock(nn.Module):
    """The same, each normalised before; `projects` are the shortcut's strides or 0."""

    convs: tuple
    projects: int

    @nn.compact
    def __call__(self, x):
        y = x
        for index, conv in enumerate(self.convs, start=1):
            y = nn.relu(flax_norm(f"norm{index}")(y))
            if index == 1 and self.projects:
                features = self.convs[-1][0]
                x = flax_conv(features, 1, self.projects, name="shortcut")(y)
            y = flax_conv(*conv, name=f"conv{index}")(y)
        return x + y


PAIRS = {
    "basic": (BasicBlock(4), FlaxBlock(((4, 3), (4, 3)), "identity")),
    "basic_projected": (
        BasicBlock(6, strides=2),
        FlaxBlock(((6, 3, 2), (6, 3)), "projection"),
    ),
    "basic_without_shortcut": (
        BasicBlock(6, strides=2, shortcut=None),
        FlaxBlock(((6, 3, 2), (6, 3)), None),
    ),
    "bottleneck": (
        Bottleneck(4, inner_ratio=0.5),
        FlaxBlock(((2, 1), (2, 3), (4, 1)), "identity"),
    ),
    "bottleneck_of_groups_projected_and_gated": (
        Bottleneck(
            8,
            strides=2,
            inner_ratio=0.5,
            groups=2,
            squeeze_excite=functools.partial(GATE, squeeze_ratio=3 / 8),
        ),
        FlaxBlock(((4, 1), (4, 3, 2, 2), (8, 1)), "projection", squeezed=3),
    ),
    "preactivation_basic": (
        PreactivationBasicBlock(4),
        FlaxPreactivationBlock(((4, 3), (4, 3)), projects=0),
    ),
    "preactivation_basic_projected_for_its_channels": (
        PreactivationBasicBlock(
            6, dropout=functools.partial(Dropout, 0.5, deterministic=True)
        ),
        FlaxPreactivationBlock(((6, 3), (6, 3)), projects=1),
    ),
    "preactivation_bottleneck": (
        PreactivationBottleneck(4),
        FlaxPreactivationBlock(((1, 1), (1, 3), (4, 1)), projects=0),
    ),
    "preactivation_bottleneck_projected_for_its_strides": (
        PreactivationBottleneck(4, strides=2, inner_ratio=0.5),
        FlaxPreactivationBlock(((2, 1), (2, 3, 2), (4, 1)), projects=2),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_equals_flax(pair, x64, generator):
    ours, theirs = PAIRS[pair]
    ours = ours.clone(**PARTS)
    x = jnp.asarray(generator.normal(size=(3, 5, 6, 4)))
    assert_equals_flax(ours, theirs, x, generator)


@pytest.mark.parametrize("block", [PreactivationBasicBlock, PreactivationBottleneck])
def test_preactivation_drops_in_its_branch_not_in_its_shortcut(block, generator):
    x = jnp.asarray(generator.normal(size=(2, 4, 4, 4)), jnp.float32)
    block = block(
        4,
        norm=functools.partial(BatchNorm, use_running_average=True),
        dropout=functools.partial(Dropout, 0.999, deterministic=False),
    )
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    y, _ = jax.jit(block.init_with_output)(keys, x)
    # Next to nothing of the branch is left to reach the 3x3 filter's neighbours.
    assert (y == x).mean() > 0.5


def test_projects_only_where_the_shape_changes(generator):
    class Shortcut(nn.Module):
        features: int
        strides: int

        @nn.compact
        def __call__(self, x):
            norm = functools.partial(BatchNorm, use_running_average=True)
            return projection_shortcut(
                x, self.features, self.strides, conv=Conv, norm=norm
            )

    x = jnp.asarray(generator.normal(size=(1, 4, 4, 3)), jnp.float32)
    y, variables = Shortcut(3, 1).init_with_output(jax.random.key(0), x)
    assert y is x
    assert not variables
    for features, strides in ((4, 1), (3, 2)):
        y, variables = Shortcut(features, strides).init_with_output(
            jax.random.key(0), x
        )
        assert y.shape == (1, 4 // strides, 4 // strides, features)
        assert {*variables["params"]} == {"shortcut"}
        assert {*variables["params"]["shortcut"]} == {"conv", "norm"}


def test_option_a_has_zeros_around_the_subsampled_input():
    x = jnp.arange(1.0, 19.0).reshape(1, 3, 3, 2)
    y = np.asarray(zero_padded_shortcut(x, 5, 2))
    assert y.shape == (1, 2, 2, 5)
    np.testing.assert_array_equal(y[..., 1:3], x[:, ::2, ::2])
    assert not y[..., 0].any()
    assert not y[..., 3:].any()
    with pytest.raises(ValueError, match="at least the 2 channels"):
        zero_padded_shortcut(x, 1, 1)


@pytest.mark.parametrize(
    ("channels", "fields", "width"),
    [
        (64, {}, 4),
        (8, {}, 1),
        (8, {"squeeze_ratio": 0.3}, 2),
        (64, {"squeezed_features": 5}, 5),
    ],
)
def test_gate_takes_its_width_from_the_channels(channels, fields, width):
    gate = SqueezeExcite(**fields)
    params = gate.init(jax.random.key(0), jnp.zeros((1, 2, 2, channels)))["params"]
    assert params["squeeze"]["kernel"].shape == (channels, width)
    assert params["expand"]["kernel"].shape == (width, channels)
