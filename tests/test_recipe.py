"""Recipes: a table of facts and the choices that follow from them."""

import dataclasses
import re

import jax
import pytest

from cnn_jax import recipe
from cnn_jax.models import create_model, model_info
from cnn_jax.training import TrainConfig
from cnn_jax.training.optimizers.roles import head_parameters
from cnn_jax.trees import named_leaves

PHOTOS = recipe.Facts(model_info("resnet18"), 48, (None, None, 3))
CIFAR = recipe.Facts(model_info("resnet20"), 45_000, (32, 32, 3), has_validation=True)


def chosen(facts, given=None, **options):
    """All fields of the choices."""
    fields = {}
    for choice in recipe.choose(facts, given, **options):
        fields |= choice.fields
    return fields


@pytest.mark.parametrize(
    ("facts", "changes", "expected"),
    [
        pytest.param(
            PHOTOS,
            {},
            {
                "image_size": 224,
                "data_path": "stream",
                "augmentation": "inception",
                "mean": (0.485, 0.456, 0.406),
                "batch_size": 8,
                "optimizer": "sgd",
                "weight_decay": 1e-4,
                "learning_rate": 0.1 * 32 / 256,
                "epochs": 100,
                "warmup_epochs": 5,
                "schedule": "cosine",
                "label_smoothing": 0.1,
                "patience": None,
                "checkpoint_every_steps": 54,
            },
            id="a few photographs",
        ),
        pytest.param(
            PHOTOS,
            {"is_pretrained": True, "num_train": 400, "has_validation": True},
            {
                "batch_size": 32,
                "learning_rate": pytest.approx(0.01 * 32 / 256),
                "learning_rate_groups": ((recipe.NEW_HEAD, 10),),
                "epochs": 42,
                "warmup_epochs": 2.1,
                "label_smoothing": 0,
                "patience": 8,
            },
            id="fine-tuning on some",
        ),
        pytest.param(
            PHOTOS,
            {"is_pretrained": True, "has_new_head": False},
            {"learning_rate": pytest.approx(0.00125), "learning_rate_groups": ()},
            id="fine-tuning with the head that there is",
        ),
        pytest.param(
            PHOTOS,
            {"num_train": 10**6},
            {"batch_size": 32, "epochs": 30, "checkpoint_every_steps": 0},
            id="a million photographs",
        ),
        pytest.param(
            PHOTOS,
            {
                "is_pretrained": True,
                "preprocessing": {
                    "input_shape": [240, 240, 3],
                    "mean": [0.5] * 3,
                    "std": [0.25] * 3,
                },
            },
            {"image_size": 240, "mean": (0.5,) * 3, "std": (0.25,) * 3},
            id="weights that know their images",
        ),
        pytest.param(
            CIFAR,
            {},
            {
                "image_size": 32,
                "data_path": "resident",
                "crop_padding": 4,
                "flip": True,
                "batch_size": 128,
                "learning_rate": 0.1,
                "epochs": 30,
                "patience": 6,
                "checkpoint_every_steps": 0,
            },
            id="CIFAR-10",
        ),
        pytest.param(
            CIFAR,
            {"image_shape": (28, 28, 1), "takes_images": False},
            {"image_size": 32, "mean": None, "crop_padding": 4, "flip": False},
            id="grey, too small for the model",
        ),
        pytest.param(
            CIFAR,
            {"model": model_info("vgg11"), "has_batch_norm": False, "num_shards": 6},
            {
                "learning_rate": 0.01 * 126 / 256,
                "weight_decay": 5e-4,
                "batch_size": 126,
            },
            id="no batch normalisation, six devices",
        ),
        pytest.param(
            PHOTOS,
            {"model": model_info("convnext_tiny"), "has_batch_norm": False},
            {
                "optimizer": "adamw",
                "weight_decay": 0.05,
                "learning_rate": pytest.approx(4e-3 * (32 / 4096) ** 0.5),
            },
            id="ConvNeXt",
        ),
    ],
)
def test_choices_follow_from_the_facts(facts, changes, expected):
    found = chosen(dataclasses.replace(facts, **changes))
    assert {name: found.get(name) for name in expected} == expected


def test_what_is_given_takes_its_place_and_others_follow():
    given = {"batch_size": 64, "epochs": 10, "image_size": 128}
    found = chosen(PHOTOS, given)
    assert (found["batch_size"], found["epochs"], found["image_size"]) == (64, 10, 128)
    assert found["learning_rate"] == 0.1 * 64 / 256
    assert found["warmup_epochs"] == 0.5
    reasons = {c.name: c.reason for c in recipe.choose(PHOTOS, given)}
    is_given = {name for name, reason in reasons.items() if reason == recipe.GIVEN}
    assert is_given == {"images", "batch size", "epochs"}
    texts = {c.name: c.text for c in recipe.choose(PHOTOS, {"learning_rate": 0.3})}
    assert texts["learning rate"] == "0.3"


def test_an_augmentation_of_the_host_asks_for_a_stream():
    found = chosen(CIFAR, {"augmentation": "randaugment"})
    assert (found["data_path"], found["augmentation"]) == ("stream", "randaugment")
    assert "crop_padding" not in found


def test_a_probe_is_asked_for_less():
    found = chosen(dataclasses.replace(PHOTOS, num_shards=3), method="probe")
    assert found["batch_size"] == 30
    assert found["weight_decay"] == recipe.PROBE_L2
    assert "epochs" not in found


def test_too_few_images_and_an_optimizer_without_a_rule_are_errors():
    with pytest.raises(ValueError, match="48 training images for 64 devices"):
        chosen(dataclasses.replace(PHOTOS, num_shards=64))
    with pytest.raises(ValueError, match="no rule"):
        chosen(PHOTOS, {"optimizer": "lars"})
    found = chosen(PHOTOS, {"optimizer": "lars", "learning_rate": 2.0})
    assert found["learning_rate"] == 2.0


@pytest.mark.parametrize("count", [2, 7, 8, 9, 100, 5000])
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_choice_makes_a_valid_configuration(count, pretrained):
    for facts in (PHOTOS, CIFAR):
        facts = dataclasses.replace(facts, num_train=count, is_pretrained=pretrained)
        config = TrainConfig(
            **chosen(facts), validation_fraction=0.1 * facts.has_validation
        )
        config.validate()
        assert config.batch_size <= count
        assert config.epochs * (count // config.batch_size) <= max(1000, 100 * count)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "squeezenet1_0"])
def test_last_layers_are_called_as_the_rule_has_it(name):
    model = create_model(name, num_classes=3)
    image = jax.ShapeDtypeStruct((1, *model_info(name).input_shape), "float32")
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    paths = filter(re.compile(recipe.NEW_HEAD).search, named_leaves(shapes["params"]))
    assert sorted(paths) == sorted(head_parameters(model, image))
