"""The recipe of images of every model, beside its reference's."""

import dataclasses
import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import nightly_except
from references import libraries, ours
from references.table import REFERENCES, TIMMS_NAMES
from references.weights import images

import cnn_jax
from cnn_jax import models
from cnn_jax.data import normalize
from cnn_jax.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from cnn_jax.pretrained.key_maps import KEY_MAPS

OF_TORCHVISION = [
    name for name, each in REFERENCES.items() if each.library == "torchvision"
]
RESCALED = ("googlenet", "inception_v3")
"""Of torchvision's networks, those that rescale images before their first layer."""


def need(*names):
    for library in names:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: see the extra `parity`")


@pytest.mark.parametrize("name", models.list_models())
def test_every_model_says_all_of_it(name):
    info = models.model_info(name)
    assert isinstance(info.preprocessing, Preprocessing)
    assert (info.mean, info.std) == (info.preprocessing.mean, info.preprocessing.std)
    assert info.preprocessing.channels == info.input_shape[2]
    # TensorFlow's sizes, which their papers and packages have, and timm's.
    others = {"efficientnet_lite3": (280, 300), "efficientnet_lite4": (300, 380)}
    sizes = others.get(name, (info.input_shape[0],) * 2)
    assert (info.input_shape[0], info.preprocessing.size) == sizes
    for source, other in info.preprocessing_by_source.items():
        assert source in ("timm", "efficientnet_pytorch")
        assert other != info.preprocessing


def test_some_known_ones():
    """Without any library, so that these hold in every run."""

    def known(name):
        each = models.model_info(name).preprocessing
        return (each.size, each.crop_fraction, each.interpolation, *each.mean[:1])

    assert known("resnet50") == (224, 0.875, "bilinear", 0.485)
    assert known("resnet20") == (32, 1.0, "bilinear", 0.485)
    assert known("efficientnet_b3") == (300, 300 / 320, "bicubic", 0.485)
    assert known("efficientnet_v2_l") == (480, 1.0, "bicubic", 0.5)
    assert known("convnext_small") == (224, 224 / 230, "bilinear", 0.485)
    assert known("inception_v3") == (299, 299 / 342, "bilinear", 0.5)
    assert known("googlenet") == (224, 0.875, "bilinear", 0.5)
    assert known("resnetv2_50") == (224, 0.95, "bicubic", 0.5)


def test_a_family_of_anybodys_needs_no_more_than_before():
    family = models.Family(
        "mine", None, "none", 2000, "", {"net": models.Variant(1, 1)}
    )
    found = models.registry._preprocessing(family, family.variants["net"])
    assert found == Preprocessing(224)


@pytest.fixture
def timm():
    need("torch", "torchvision", "timm")
    libraries.import_torchvision()
    import timm

    return timm


@pytest.mark.parity
@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_it_is_torchvisions(name):
    """Of the weights whose accuracy is quoted."""
    need("torch", "torchvision")
    info = models.model_info(name)
    expected = libraries.torchvision_preprocessing(quoted(name))
    if name in RESCALED:
        expected = dataclasses.replace(expected, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert info.preprocessing == expected


@pytest.mark.parity
@pytest.mark.parametrize("name", nightly_except(["googlenet"], RESCALED))
def test_it_goes_with_torchvisions_rescaling(name):
    """The pixels' logits are those of torchvision's transforms and network."""
    need("torch", "torchvision")
    import torch

    info, weights = models.model_info(name), quoted(name)
    network, state = libraries.as_published(name, weights, gain=REFERENCES[name].gain)
    pixels = np.uint8(255 * images(info.preprocessing.size, 3).clip(-1, 1) / 2 + 127)
    transforms = weights.transforms()
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255))
    mean, std = (
        torch.tensor(each)[:, None, None] for each in (transforms.mean, transforms.std)
    )
    with torch.no_grad():
        expected = network((x - mean) / std).numpy()
    variables, _ = cnn_jax.load_pretrained(name, state)
    logits_fn = ours.logits_fn(cnn_jax.create_model(name))

    def distance(mean, std):
        x = normalize(jnp.asarray(pixels), mean, std, "float32")
        logits = np.asarray(logits_fn(variables, x))
        return np.abs(logits - expected).max() / np.abs(expected).max()

    assert distance(info.mean, info.std) < 1e-4
    assert distance(IMAGENET_MEAN, IMAGENET_STD) > 1e-2


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", [name for name, each in REFERENCES.items() if each.library == "timm"]
)
def test_it_is_timms(name, timm):
    configuration = timm.models.get_pretrained_cfg(REFERENCES[name].name)
    expected = libraries.timm_preprocessing(configuration)
    assert models.model_info(name).preprocessing == expected


@pytest.mark.parity
@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_timms_weights_get_timms(name, timm):
    """Of networks that timm has too, and whose names there can be read."""
    model = models.create_model(name)
    key_maps = KEY_MAPS[type(model)]
    theirs = TIMMS_NAMES[name].name if name in TIMMS_NAMES else name
    if not ("timm" in key_maps and key_maps["timm"](model) and timm.is_model(theirs)):
        assert name not in TIMMS_NAMES
        return
    info = models.model_info(name)
    found = info.preprocessing_by_source.get("timm", info.preprocessing)
    configuration = timm.models.get_pretrained_cfg(theirs)
    assert found == libraries.timm_preprocessing(configuration)


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", [name for name, each in REFERENCES.items() if each.library == "keras"]
)
def test_it_is_kerass(name, x64):
    need("keras")
    mean, std = libraries.keras_normalization(REFERENCES[name].name)
    found = models.model_info(name).preprocessing
    assert found.mean == pytest.approx([mean] * 3)
    assert found.std == pytest.approx([std] * 3)


def quoted(name):
    """Returns the weights of torchvision's whose accuracy the registry quotes."""
    reference, top1 = REFERENCES[name], models.model_info(name).top1
    (weights,) = (
        weights
        for weights in libraries.import_torchvision().models.get_model_weights(
            reference.name
        )
        if weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1") == top1
    )
    return weights
