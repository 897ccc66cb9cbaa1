"""Programs that were compiled once serve other seeds, and nothing else."""

import dataclasses

import chex
import pytest

from cnn_jax import sharding
from cnn_jax.training import TrainConfig
from cnn_jax.training.loop import fit
from cnn_jax.training.programs import Programs

CONFIG = TrainConfig(image_size=8, epochs=1, batch_size=32, crop_padding=1)


@pytest.fixture(scope="module")
def splits(digits):
    """The splits that the programs are compiled for."""
    return dict(zip(("train", "test"), digits, strict=True))


@pytest.fixture(scope="module")
def programs(splits, tiny_net):
    """Programs for the seed of `CONFIG`."""
    return Programs(tiny_net(), CONFIG, splits, sharding.make_mesh())


def test_shared_programs_train_as_own_ones_would(programs, digits, tiny_net):
    config = dataclasses.replace(CONFIG, seed=7)
    shared = fit(tiny_net(), config, *digits, programs=programs, progress=False)
    own = fit(tiny_net(), config, *digits, progress=False)
    chex.assert_trees_all_equal(shared.state.params, own.state.params)
    assert shared.test == own.test
    assert shared.compile_seconds == programs.compile_seconds
    first = fit(tiny_net(), CONFIG, *digits, programs=programs, progress=False)
    assert first.state_digest != shared.state_digest


def test_programs_refuse_all_but_another_seed(programs, splits, tiny_net):
    may_differ = dataclasses.replace(CONFIG, seed=3, run_dir="elsewhere", resume=True)
    programs.reuse(tiny_net(), may_differ, splits)
    other_config = dataclasses.replace(CONFIG, learning_rate=0.2, batch_size=16)
    with pytest.raises(ValueError, match="other values of batch_size, learning_rate"):
        programs.reuse(tiny_net(), other_config, splits)
    with pytest.raises(ValueError, match="other values of the model"):
        programs.reuse(tiny_net(dropout_rate=0.5), CONFIG, splits)
    test_again = {**splits, "test": splits["test"].take(range(10))}
    with pytest.raises(ValueError, match="other values of the splits"):
        programs.reuse(tiny_net(), CONFIG, test_again)
