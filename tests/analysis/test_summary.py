"""Parameters and multiply-adds, by hand, by the published figure and by XLA."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import cnn_jax
from cnn_jax import layers
from cnn_jax.analysis.summary import LayerSummary, summarize
from cnn_jax.layers import abstract_variables


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(6, 3, strides=2, groups=2, name="conv")(x)
        x = layers.BatchNorm(use_running_average=not train, name="norm")(x)
        shared = layers.Dense(6, name="dense")
        x = shared(shared(x.mean((1, 2))))
        return layers.Dropout(0.5, deterministic=not train, name="dropout")(x)


def test_counts_by_hand():
    summary = summarize(Small(), (8, 10, 4))
    assert summary.layers == (
        LayerSummary("conv", "Conv", (4, 5, 6), 108 + 6, 20 * 6 * 3 * 3 * 2, 480),
        LayerSummary("norm", "BatchNorm", (4, 5, 6), 12, 0, 480),
        LayerSummary("dense", "Dense", (6,), 42, 36, 24),
        LayerSummary("dense", "Dense", (6,), 0, 36, 24),
        LayerSummary("dropout", "Dropout", (6,), 0, 0, 24),
    )
    assert summary.parameters == 114 + 12 + 42
    assert summary.macs == 2160 + 72
    assert summary.flops == 2 * summary.macs
    assert summary.layers[0].flops == 4320
    assert summary.activation_bytes == 2 * 480 + 3 * 24


def test_activations_have_the_bytes_of_the_computation():
    summary = summarize(Small(), (8, 10, 4), dtype=jnp.bfloat16)
    # Parameters are float32, and the layers compute in what both promote to.
    assert summary.layers[0].activation_bytes == 480
    model = cnn_jax.create_model("lenet5", dtype=jnp.bfloat16)
    half, full = (
        summarize(which, (32, 32, 1))
        for which in (model, cnn_jax.create_model("lenet5"))
    )
    assert [layer.activation_bytes for layer in half.layers] == [
        layer.activation_bytes // 2 for layer in full.layers
    ]


class WithAuxiliaryHead(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Dense(3, name="head")(x)
        if train or self.is_initializing():
            layers.Dense(2, name="aux")(x)
        return x


def test_a_head_for_training_has_parameters_but_does_nothing_in_inference():
    assert summarize(WithAuxiliaryHead(), (5,)).layers == (
        LayerSummary("head", "Dense", (3,), 18, 15, 12),
        LayerSummary("aux", "Dense", (2,), 8, 0, 0),
    )


def test_a_layer_may_be_the_model():
    summary = summarize(PlainDense(3), (5,))
    assert summary.macs == 15
    assert summary.layers[0].path == ""


class PlainDense(layers.Dense):
    def __call__(self, x, train=False):
        return super().__call__(x)


def test_dictionary_is_json_and_complete():
    summary = summarize(Small(), (8, 10, 4))
    content = json.loads(json.dumps(summary.to_dict()))
    assert content["model"] == "Small"
    assert content["input_shape"] == [8, 10, 4]
    assert content["flops"] == 2 * content["macs"] == summary.flops
    assert content["activation_bytes"] == summary.activation_bytes
    assert sum(layer["macs"] for layer in content["layers"]) == content["macs"]
    assert (
        sum(layer["parameters"] for layer in content["layers"])
        == (content["parameters"])
    )
    assert content["layers"][0]["output_shape"] == [4, 5, 6]


class Gate(nn.Module):
    dense: type = layers.Dense

    @nn.compact
    def __call__(self, x, train=False):
        return layers.SqueezeExcite(2, dense=self.dense, name="gate")(x)


def test_a_gate_counts_the_same_as_one_kernel_and_as_two_layers():
    summaries = [
        summarize(Gate(dense), (4, 4, 6)) for dense in (layers.Dense, nn.Dense)
    ]
    for summary in summaries:
        assert [(layer.path, layer.macs) for layer in summary.layers] == [
            ("gate/squeeze", 12),
            ("gate/expand", 12),
        ]
        assert [layer.output_shape for layer in summary.layers] == [(2,), (6,)]
        assert summary.parameters == 12 + 2 + 12 + 6


class Bilinear(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return x @ self.param("kernel", nn.initializers.ones_init(), (4, 4))


def test_refuses_a_kernel_without_a_rule():
    with pytest.raises(ValueError, match="Bilinear with a kernel"):
        summarize(Bilinear(), (3, 4))


class FlaxConv(nn.Module):
    size: int
    strides: int = 1
    groups: int = 1
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Conv(
            8,
            (self.size, self.size),
            strides=self.strides,
            padding=self.padding,
            feature_group_count=self.groups,
            use_bias=False,
        )(x)


def xla_flops(model, input_shape):
    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = abstract_variables(model, x)
    return jax.jit(model.apply).lower(variables, x).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "model",
    [
        FlaxConv(3),
        FlaxConv(1),
        FlaxConv(5, strides=2),
        FlaxConv(3, groups=4),
        FlaxConv(3, groups=8, strides=2),
    ],
)
def test_equals_xla_without_padding(model):
    assert summarize(model, (12, 11, 8)).flops == xla_flops(model, (12, 11, 8))


def test_xla_skips_the_padded_taps_that_we_count():
    model = FlaxConv(3, padding="SAME")
    # Along 12 positions a window of 3 has 36 taps, of which 2 fall outside.
    assert summarize(model, (12, 12, 8)).macs == 36 * 36 * 8 * 8
    assert xla_flops(model, (12, 12, 8)) == 2 * 34 * 34 * 8 * 8


def test_lenet_is_within_two_percent_of_xla():
    # Nothing is padded; biases, tanh and pooling are the rest.
    model, info = cnn_jax.create_model("lenet5"), cnn_jax.model_info("lenet5")
    summary = summarize(model, info.input_shape)
    assert [layer.macs for layer in summary.layers] == [
        117_600,
        240_000,
        48_000,
        10_080,
        840,
    ]
    measured = xla_flops(model, info.input_shape)
    assert summary.flops < measured < 1.02 * summary.flops


def test_resnet_is_within_three_percent_of_xla():
    # Padding is what XLA leaves out; normalisation, relu and pooling are the rest.
    model, info = cnn_jax.create_model("resnet50"), cnn_jax.model_info("resnet50")
    x = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
    variables = abstract_variables(model, x)
    measured = jax.jit(model.apply).lower(variables, x).cost_analysis()["flops"]
    assert measured == pytest.approx(info.flops, rel=0.03)
