"""A configuration is checked as a whole."""

import argparse
import dataclasses
import json

import numpy as np
import pytest

from cnn_jax import cli, create_model, data
from cnn_jax import kernels as K
from cnn_jax.analysis.gradcheck import run_gradcheck
from cnn_jax.training import TrainConfig
from cnn_jax.training.config import RESUME_MAY_CHANGE
from cnn_jax.training.config.optimizer import OptimizerConfig
from cnn_jax.training.config.regularization import RegularizationConfig
from cnn_jax.training.run.keys import make_keys

SMALL = data.Dataset(
    "small",
    "train",
    np.zeros((4, 2, 2, 1), np.uint8),
    np.asarray([0, 1, 0, 1]),
    ("a", "b"),
)


def test_the_default_is_valid_and_survives_json():
    config = TrainConfig()
    config.validate()
    assert json.loads(json.dumps(config.to_dict()))["schedule"] == "one_cycle"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run_dir": "gs://bucket/run"}, "run_dir: got .* expected a local directory"),
        ({"checkpoint_dir": "gs://bucket/run"}, "checkpoint_dir: .* run_dir to be giv"),
        ({"run_dir": ""}, "run_dir: got '', expected a path"),
        ({"run_dir": " "}, "run_dir: got ' ', expected a local directory"),
        ({"run_dir": "a\0b"}, "run_dir: got 'a.*b', expected a path"),
        ({"run_dir": 7}, "run_dir: got 7, expected a path"),
        (
            {"run_dir": "a", "checkpoint_dir": ""},
            "checkpoint_dir: got '', expected a path",
        ),
        (
            {"run_dir": "a", "checkpoint_dir": "foo://a"},
            "checkpoint_dir: got 'foo://a'",
        ),
        ({"run_dir": "a", "checkpoint_dir": "file:///a"}, "a directory, or gs://, s3"),
        ({"allow_changed": ("environment.thread",)}, "not .'environment.thread'"),
        ({"keep_checkpoint_every_steps": 0}, "keep_checkpoint_every_steps: got 0"),
        ({"sharding_rules": (("head", "fsdp"),)}, "a mesh with the axis 'fsdp'"),
        ({"mesh": "fsdp=2", "sharding_rules": (("(", ""),)}, "regular expressions"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields).validate()


def test_every_mistake_is_listed_at_once():
    config = TrainConfig(
        epochs=0,
        optimizer="sdg",
        label_smoothing=1.0,
        learning_rate=float("nan"),
        step_milestones=(0.5, 0.25),
        mean=(0.5,),
        resume=True,
    )
    with pytest.raises(ValueError) as error:
        config.validate()
    lines = str(error.value).splitlines()[1:]
    assert {line.split(":")[0].strip() for line in lines} == {
        "epochs",
        "optimizer",
        "label_smoothing",
        "learning_rate",
        "warmup_epochs",
        "step_milestones",
        "mean",
        "resume",
    }
    assert any("got 'sdg', expected one of ('sgd', 'adamw', " in line for line in lines)


@pytest.mark.parametrize(
    "field",
    ["batch_size", "keep_checkpoints", "log_every_steps", "patience", "image_size"],
)
def test_counts_start_at_one(field):
    with pytest.raises(ValueError, match=f"{field}: got 0, expected a whole number of"):
        TrainConfig(**{field: 0}).validate()


COUNTS = [
    field.name
    for field in dataclasses.fields(TrainConfig)
    if field.type in ("int", "int | None")
]


@pytest.mark.parametrize("field", COUNTS)
def test_counts_are_whole_numbers(field):
    with pytest.raises(ValueError, match=rf"{field}: got 1\.5, expected"):
        TrainConfig(**{field: 1.5}).validate()


SEEDS = (-1, 2**32, 2**64, 1.0, True, "0", None, float("nan"), np.int64(-1))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_is_a_whole_number_of_32_bits(seed):
    with pytest.raises(ValueError, match=r"  seed: got .* 0 to 4,294,967,295"):
        TrainConfig(seed=seed).validate()


@pytest.mark.parametrize("number", [0, 2**32 - 1, np.uint32(7), np.int64(5)])
def test_numbers_of_numpy_are_pythons(number):
    config = TrainConfig(seed=number, batch_size=np.uint8(200))
    config.validate()
    assert json.loads(json.dumps(config.to_dict()))["seed"] == int(number)
    assert config.batch_size * 1000 == 200_000


MISTAKES = {
    "second_moment_decay": 1.0,
    "epsilon": 0.0,
    "muon_parameters": ("(",),
    "frozen_parameters": ("*",),
    "learning_rate_groups": (("head", 0.0),),
    "maximum_gradient_norm": -1.0,
    "accumulate_steps": 3,
    "ema_decay": 1.5,
    "sam_radius": -0.1,
    "dropout_rate": 1.0,
    "spatial_dropout_rate": -0.1,
    "drop_block_rate": 2.0,
    "drop_block_size": 0,
    "stochastic_depth_rate": float("nan"),
    "dtype": "float8",
    "initial_loss_scale": 0.5,
    "loss_scale_growth_steps": 0,
    "pretrained": "",
    "batch_norm": "eval",
    "l2_sp": -0.1,
    "layer_decay": 0.0,
    "unfreeze_epochs": (("^stem/", 10.0),),
}


def test_each_field_refuses_what_cannot_be_meant():
    with pytest.raises(ValueError) as error:
        TrainConfig(batch_size=128, **MISTAKES).validate()
    lines = str(error.value).splitlines()[1:]
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(MISTAKES)


def test_the_fields_take_what_can_be_meant():
    TrainConfig(
        batch_size=128,
        optimizer="muon",
        second_moment_decay=0.95,
        epsilon=1e-6,
        frozen_parameters=("^stem/",),
        learning_rate_groups=(("^head/", 10.0),),
        maximum_gradient_norm=1.0,
        accumulate_steps=4,
        ema_decay=0.999,
        sam_radius=0.05,
        dtype="float16",
        drop_block_size=7,
        pretrained="hf-hub:timm/resnet50.a1_in1k",
        batch_norm="adapt",
        l2_sp=0.01,
        layer_decay=1.0,
        unfreeze_epochs=(("^stem/", 9.5), ("^stage1", 0.25)),
    ).validate()


def test_what_a_model_has_not_is_refused_by_name():
    config = TrainConfig(stochastic_depth_rate=0.2, drop_block_size=5)
    overrides = config.model_overrides()
    assert overrides == {"stochastic_depth_rate": 0.2, "drop_block_size": 5}
    assert create_model("resnet20", **overrides).drop_block_size == 5
    with pytest.raises(ValueError, match=r"lenet5: got unknown fields \['drop_block_"):
        create_model("lenet5", **overrides)
    assert TrainConfig().model_overrides() == {}


def test_blocks_are_recomputed_where_the_configuration_says_so():
    config = TrainConfig(remat=True)
    config.validate()
    assert create_model("resnet20", **config.model_overrides()).remat
    saved = TrainConfig().to_dict()
    del saved["remat"]  # as a version wrote it that did not have it
    assert TrainConfig(**TrainConfig.completed(saved)) == TrainConfig()
    # A run whose blocks are recomputed has another rounding.
    assert "remat" not in RESUME_MAY_CHANGE


def test_nothing_that_moves_a_number_may_change_on_resuming():
    moving = {
        field.name
        for part in (OptimizerConfig, RegularizationConfig)
        for field in dataclasses.fields(part)
    }
    assert not moving & set(RESUME_MAY_CHANGE)
    precision = {"dtype", "initial_loss_scale", "loss_scale_growth_steps"}
    assert not precision & set(RESUME_MAY_CHANGE)


TAKES_SEED = {
    "make_keys": make_keys,
    "Dataset.split_off": lambda seed: SMALL.split_off(0.5, seed),
    "Dataset.take_per_class": lambda seed: SMALL.take_per_class(1, seed),
    "hold_out": lambda seed: data.hold_out(SMALL, 0.5, seed),
    "TrainStream": lambda seed: data.TrainStream(
        SMALL, batch_size=1, transform=data.train_transform("none", 2), seed=seed
    ),
    "gradcheck": lambda seed: run_gradcheck({"relu": K.relu}, seed),
    "convert": lambda seed: cli.convert.run(
        argparse.Namespace(
            weights="missing.npz",
            destination="nowhere",
            model="lenet5",
            source=None,
            num_classes=None,
            in_channels=None,
            seed=seed,
        )
    ),
}


@pytest.mark.parametrize("function", TAKES_SEED)
@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True])
def test_whatever_takes_a_seed_checks_it(function, seed):
    with pytest.raises((ValueError, cli.usage.UsageError), match=r"seed: got .*, exp"):
        TAKES_SEED[function](seed)
