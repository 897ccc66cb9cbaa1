"""Making models by name, what is known of them, and clear refusals."""

import dataclasses

import jax.numpy as jnp
import pytest
from helpers.quick import MARKED

from cnn_jax import models
from cnn_jax.analysis.summary import summarize
from cnn_jax.layers import Dense


def test_lists_by_pattern():
    assert models.list_models("resnet??") == [
        "resnet18",
        "resnet20",
        "resnet32",
        "resnet34",
        "resnet44",
        "resnet50",
        "resnet56",
    ]
    assert {"lenet5", "vgg8_cifar", "efficientnet_cifar", "plain20"} <= set(
        models.list_models()
    )
    assert models.list_models() == sorted(models.list_models())
    assert models.list_models("no such*") == []


@pytest.mark.parametrize("name", MARKED)
def test_info_states_the_measured_counts(name):
    info = models.model_info(name)
    summary = summarize(models.create_model(name), info.input_shape)
    assert (info.parameters, info.macs) == (summary.parameters, summary.macs)
    assert info.flops == 2 * info.macs
    assert info.input_size == info.input_shape[:2]
    assert len(info.mean) == len(info.std) == info.input_shape[2]
    assert info.name == name


# He et al. 2015, table 6, gives millions with two digits; the exact numbers of the
# LeNet and ResNet architectures are widely published.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet5", 61_706),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("plain20", 269_722),
    ],
)
def test_parameters_equal_the_published_number(name, parameters):
    assert models.model_info(name).parameters == parameters


def test_info_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        models.model_info("lenet5").year = 2000


def test_fields_reach_the_model():
    model = models.create_model(
        "resnet32",
        num_classes=7,
        dtype="bfloat16",
        param_dtype=jnp.float64,
        stage_sizes=(4, 4),
        stage_features=(8, 8),
    )
    assert model.stage_sizes == (4, 4)
    assert model.small_images is True
    assert model.num_classes == 7
    assert model.dtype == jnp.bfloat16
    assert model.param_dtype == jnp.float64
    assert model.stage_features == (8, 8)
    assert models.create_model("resnet32").num_classes == 10
    assert models.create_model("resnet32").stage_sizes == (5, 5, 5)
    assert models.create_model("resnet50").num_classes == 1000
    # Equal models share what jit has compiled for them.
    assert models.create_model("vgg8_cifar") == models.create_model("vgg8_cifar")
    assert hash(models.create_model("efficientnet_cifar"))


@pytest.mark.parametrize("function", [models.create_model, models.model_info])
def test_unknown_name_gets_the_nearest(function):
    with pytest.raises(ValueError, match=r"'resnt20'; did you mean 'resnet20'"):
        function("resnt20")
    with pytest.raises(ValueError, match=r"expected one of \['alexnet', "):
        function("???")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 3}, r"unknown fields \['depth'\].*block.*stage_sizes"),
        ({"parent": None}, "unknown fields"),
        ({"num_classes": -1}, "num_classes"),
        ({"dtype": "int32"}, "dtype: got int32"),
        ({"dtype": "float23"}, "dtype: got 'float23'"),
        ({"param_dtype": bool}, "param_dtype"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create_model("resnet20", **arguments)


def test_a_new_family_registers_but_no_name_twice(monkeypatch):
    monkeypatch.setattr(models.registry, "_FAMILY_OF", dict(models.registry._FAMILY_OF))
    family = models.Family(
        name="mine",
        module=Dense,
        paper="none",
        year=2000,
        url="",
        input_shape=(4, 4, 1),
        mean=(0.0,),
        std=(1.0,),
        variants={"mine1": models.Variant(parameters=1, macs=1)},
    )
    models.register(family)
    assert models.list_models("mine*") == ["mine1"]
    with pytest.raises(ValueError, match="mine1"):
        models.register(family)
