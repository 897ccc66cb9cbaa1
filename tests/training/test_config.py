"""A configuration is checked as a whole."""

import json

import pytest

from cnn_jax.training import TrainConfig


def test_the_default_is_valid_and_survives_json():
    config = TrainConfig()
    config.validate()
    assert json.loads(json.dumps(config.to_dict()))["schedule"] == "one_cycle"


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
    with pytest.raises(ValueError, match=f"{field}: got 0, expected at least 1"):
        TrainConfig(**{field: 0}).validate()
