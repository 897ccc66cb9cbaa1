"""A small dataset and a small network that trains in a second."""

import dataclasses

import flax.linen as nn
import jax
import pytest

from cnn_jax.data import load_dataset
from cnn_jax.training import TrainConfig


class TinyNet(nn.Module):
    """One convolution, one norm, dropout and a head: all that a state can hold."""

    dropout_rate: float = 0.2
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns the logits, or what the head would see."""
        x = nn.Conv(8, (3, 3), strides=2, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.relu(x).reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Lets runs that differ only in bookkeeping share their compiled programs."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def tiny_net():
    """The class of a network for 8x8 images, by default of ten classes."""
    return TinyNet


@pytest.fixture(scope="session")
def digits():
    """360 training and 355 test scans of digits in their own size."""
    train = load_dataset("digits", "train", image_size=8)
    return train.split_off(0.25)[1], load_dataset("digits", "test", image_size=8)


@pytest.fixture
def config():
    """Three epochs of eleven steps; every kind of randomness is on."""
    return TrainConfig(
        model="tiny",
        image_size=8,
        epochs=3,
        batch_size=32,
        learning_rate=0.2,
        label_smoothing=0.1,
        crop_padding=1,
        log_every_steps=4,
    )


@pytest.fixture
def with_run(config, tmp_path):
    """Returns the configuration with a run directory and other changes."""

    def make(**changes):
        return dataclasses.replace(config, run_dir=str(tmp_path / "run"), **changes)

    return make
