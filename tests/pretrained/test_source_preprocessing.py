"""The preparation of images for weights that say nothing of it, by their names."""

import flax.linen as nn
import pytest

import cnn_jax
from cnn_jax.pretrained import Provenance
from cnn_jax.pretrained.files.stored import as_said
from cnn_jax.pretrained.source_preprocessing import with_preprocessing

SAYS_IT = {"mean": [0.3], "std": [0.1]}


def found_for(name, source, channels=3, location="weights.pth", **fields):
    model = cnn_jax.create_model(name, **fields)
    provenance = Provenance(location)
    return with_preprocessing(provenance, model, source, channels).preprocessing


@pytest.mark.parametrize(("number", "size"), [*enumerate((224, 240, 260, 280, 300))])
def test_lite_weights_under_their_own_names(number, size):
    expected = {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "crop_fraction": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "input_shape": [size, size, 3],
    }
    name = f"efficientnet_lite{number}"
    assert found_for(name, "efficientnet_pytorch") == expected
    assert found_for(name, "timm") == {}  # the model's own


@pytest.mark.parametrize(
    ("name", "crop", "interpolation"),
    [
        ("resnet50", 0.95, "bicubic"),
        ("densenet121", 0.875, "bicubic"),
        ("convnext_base", 0.875, "bicubic"),
        ("inception_v3", 0.875, "bicubic"),
    ],
)
def test_timms_weights_of_torchvisions_models(name, crop, interpolation):
    found = found_for(name, "timm")
    assert (found["crop_fraction"], found["interpolation"]) == (crop, interpolation)
    assert found_for(name, "torchvision") == {}
    info = cnn_jax.model_info(name)
    assert found == as_said(info.preprocessing_by_source["timm"])


def test_a_changed_model_is_still_that_model():
    assert found_for("inception_v3", "timm", aux_heads=False, num_classes=7)


def test_nothing_is_taken_from_another_number_of_channels():
    assert found_for("resnet50", "timm", channels=1) == {}


def test_what_weights_say_stays():
    model = cnn_jax.create_model("resnet50")
    said = Provenance("weights.pth", preprocessing=SAYS_IT)
    assert with_preprocessing(said, model, "timm", 3) is said
    own = Provenance("weights.npz")
    assert with_preprocessing(own, model, "cnn_jax", 3) is own


def test_timms_repositories_are_timms_whatever_the_names():
    info = cnn_jax.model_info("resnet50")
    timms, torchvisions = info.preprocessing_by_source["timm"], info.preprocessing
    for owner, library, expected in (
        ("timm", "timm", timms),
        ("someone", "torchvision", torchvisions),
    ):
        with pytest.warns(
            UserWarning, match=f"{library}'s weights of resnet50"
        ) as seen:
            found = found_for("resnet50", "torchvision", location=f"hf-hub:{owner}/x")
        assert found == as_said(expected)
        assert str(expected) in str(seen[0].message)


def test_a_repository_of_which_nothing_is_known_is_said_too():
    with pytest.warns(UserWarning, match="nothing is known of it"):
        assert found_for("resnet50", "timm", 1, "hf-hub:timm/x") == {}
    other = Provenance("hf-hub:someone/x")
    with pytest.warns(UserWarning, match="nothing is known of it"):
        assert with_preprocessing(other, nn.Dense(2), "cnn_jax", 3) is other
