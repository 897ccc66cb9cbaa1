"""The arguments of `fit` are checked before anything is compiled or written."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.data import Dataset
from cnn_jax.training.run.checks import check_model
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.fit import fit


class Head(nn.Module):
    """One dense layer, and something else than its logits where asked for."""

    num_classes: int = 10
    output: str = "logits"

    @nn.compact
    def __call__(self, x, *, train=False):
        logits = nn.Dense(self.num_classes)(x.reshape(len(x), -1))
        return {
            "logits": logits,
            "tuple": (logits, logits),
            "mapping": {"logits": logits},
            "integers": logits.astype(jnp.int32),
            "rank 3": logits[:, None],
            "mean over the batch": logits.mean(axis=0),
            "tuple in training": (logits, logits) if train else logits,
        }[self.output]


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1))


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        self.variable("cache", "seen", jnp.zeros, ())
        return nn.Dense(10)(x.reshape(len(x), -1))


class Coloured(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        kernel = self.param("kernel", nn.initializers.ones, (3, 10))
        return x.mean(axis=(1, 2)) @ kernel


class NoVariables:
    def init(self, key, images, train):
        return (jnp.zeros(3),)

    def apply(self, variables, images, **options):
        return images


MODELS = {
    "7 logits": (
        Head(7),
        r"got 7 logits from Head for 2 images, expected logits \(n, ",
    ),
    "features": (
        cnn_jax.create_model("resnet20", num_classes=0),
        "got 64 logits from ResNet .* make it with num_classes=10",
    ),
    "tuple": (Head(output="tuple"), "got a tuple from Head, expected one array"),
    "mapping": (Head(output="mapping"), "got a dict from Head, expected one array"),
    "integers": (Head(output="integers"), "got int32 from Head, expected floating"),
    "rank": (Head(output="rank 3"), r"got \[2, 1, 10\] from Head for 2 images"),
    "no batch": (Head(output="mean over the batch"), r"got \[10\] from Head for 2"),
    "training": (Head(output="tuple in training"), "got a tuple from Head"),
    "no train": (NoTrain(), "got NoTrain, whose call takes no `train`"),
    "collection": (Cached(), "got the variables cache from Cached's init"),
    "channels": (Coloured(), r"from Coloured for images \[8, 8, 1\] \(height, width,"),
    "size": (
        cnn_jax.create_model("lenet5", num_classes=10),
        "LeNet5: got images of 8 x 8, expected at least 32 x 32",
    ),
    "no variables": (NoVariables(), "got a tuple from NoVariables's init"),
    "name": ("resnet20", r"got 'resnet20'.*create_model\('resnet20', num_classes="),
    "class": (Head, r"got the class Head, .*; Head\(\) makes one"),
    "function": (len, "got a builtin_function_or_method, expected a linen module"),
}


@pytest.fixture
def never_compiled(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("compiled")

    monkeypatch.setattr(CompiledRun, "__init__", refuse)


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_makes_no_logits_of_the_data(
    case, digits, with_run, never_compiled, tmp_path
):
    model, message = MODELS[case]
    with pytest.raises(ValueError, match=f"^model: {message}|^model: .*{message}"):
        fit(model, digits[0], test=digits[1], config=with_run(epochs=1), progress=False)
    assert not (tmp_path / "run").exists()


def test_statistics_over_a_mapped_axis_are_no_mistake():
    class Mapped(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=not train, axis_name="data")(x)
            return nn.Dense(3)(x.reshape(len(x), -1))

    check_model(Mapped(), (2, 2, 1), 3, "float32")


SPLITS = {
    "labels": (
        (np.zeros((4, 8, 8, 1)), np.zeros(4)),
        r"got labels float64\[4\], expected integers",
    ),
    "images": (
        (np.zeros((4, 8, 8), np.uint8), np.zeros(4, int)),
        r"got images uint8\[4, 8, 8\], expected uint8 or floating",
    ),
    "array": (
        np.zeros((4, 8, 8, 1), np.uint8),
        "batch 0: got a ndarray, expected a pa",
    ),
    "class": (Dataset, r"got the class Dataset, expected \(images, labels\), a data.S"),
    "name": ("digits", r"got 'digits', expected \(images, labels\), a data.Source"),
    "nothing": (None, r"got a NoneType, expected \(images, labels\), a data.Source"),
    "iterator": (iter([]), "got (an iterator, which can be|no batch, expected at)"),
}


@pytest.mark.parametrize("case", SPLITS)
@pytest.mark.parametrize("place", ["train", "test", "validation"])
def test_what_is_no_source(case, place, digits, config, never_compiled):
    value, message = SPLITS[case]
    splits = {"train": digits[0], "test": digits[1], "validation": digits[1]}
    if value is None and place != "train":
        return
    with pytest.raises(ValueError, match=f"{place}.*: {message}"):
        fit(Head(), config=config, **{**splits, place: value}, progress=False)


def test_a_configuration_in_another_place(digits, config, never_compiled):
    with pytest.raises(ValueError, match="config: got a Dataset, expected a TrainConf"):
        fit(Head(), digits[1], test=config, config=digits[0], progress=False)


def test_regularizers_that_the_model_has_not(tiny_net, digits, config, never_compiled):
    with pytest.raises(ValueError) as error:
        fit(
            Head(),
            digits[0],
            test=digits[1],
            config=dataclasses.replace(config, dropout_rate=0.5, drop_block_size=3),
            progress=False,
        )
    for field in ("dropout_rate: got 0.5", "drop_block_size: got 3"):
        assert f"{field} for Head, which has no such field" in str(error.value)
    changed = dataclasses.replace(config, dropout_rate=0.5)
    with pytest.raises(ValueError, match=r"got 0\.5 for TinyNet, whose own is 0\.2"):
        fit(tiny_net(), digits[0], test=digits[1], config=changed, progress=False)
