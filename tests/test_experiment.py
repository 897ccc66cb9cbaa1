"""What an experiment makes of its configuration before the run begins."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import experiment
from cnn_jax.pretrained import ConversionReport, Provenance, load_pretrained
from cnn_jax.training import TrainConfig
from cnn_jax.trees import named_leaves


@pytest.fixture
def calls(monkeypatch):
    """Collects what runs would have been started with."""
    found = []

    def fit(model, config, *splits, initial_variables, **options):
        call = types.SimpleNamespace(config=config, variables=initial_variables)
        found.append(call)

    monkeypatch.setattr(experiment, "fit", fit)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of LeNet-5 for three classes, and what it holds."""
    model = cnn_jax.create_model("lenet5", num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    leaves = {
        name: np.full(leaf.shape, 0.5, np.float32)
        for name, leaf in named_leaves(shapes).items()
    }
    path = tmp_path_factory.mktemp("weights") / "lenet5.npz"
    np.savez(path, **leaves)
    return str(path), leaves


def test_a_run_starts_from_pretrained_weights_with_a_new_head(calls, weights, capsys):
    path, leaves = weights
    config = TrainConfig(model="lenet5", pretrained=path, mean=(0.2,), std=(0.4,))
    experiment.run(config)
    assert "initialised afresh: params/head/" in capsys.readouterr().out
    for name, leaf in named_leaves(calls[0].variables).items():
        if name.startswith("params/head/"):
            assert leaf.shape[-1] == 10
        else:
            np.testing.assert_array_equal(leaf, leaves[name])
    assert calls[0].config == config


def test_images_are_normalised_as_the_weights_know_them(calls, weights, monkeypatch):
    path, _ = weights

    def load(*arguments, **options):
        variables, report = load_pretrained(*arguments, **options)
        known = Provenance(path, None, preprocessing={"mean": [0.1], "std": [0.3]})
        return variables, ConversionReport(**{**vars(report), "provenance": known})

    monkeypatch.setattr(experiment, "load_pretrained", load)
    experiment.run(TrainConfig(model="lenet5", pretrained=path))
    assert (calls[0].config.mean, calls[0].config.std) == ((0.1,), (0.3,))
    experiment.run(
        TrainConfig(model="lenet5", pretrained=path, mean=(0.2,), std=(1.0,))
    )
    assert (calls[1].config.mean, calls[1].config.std) == ((0.2,), (1.0,))


def test_without_weights_a_run_starts_from_its_seed(calls):
    experiment.run(TrainConfig(model="lenet5"))
    assert calls[0].variables is None
