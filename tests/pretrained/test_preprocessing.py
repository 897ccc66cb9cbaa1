"""The preparation of images for loaded weights: what these say comes first."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import cnn_jax
from cnn_jax.data import eval_transform
from cnn_jax.models import model_info
from cnn_jax.prediction import predict
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained import ConversionReport, Provenance, preprocessing_of
from cnn_jax.pretrained.convert import convert
from cnn_jax.pretrained.files.own_weights import METADATA_NAME

INFO = model_info("lenet5")


def report(said, shape=(32, 32, 1)):
    return ConversionReport(
        "cnn_jax", {}, (), {}, (), Provenance("weights", preprocessing=said), shape
    )


def test_what_weights_say_is_believed():
    said = {
        "mean": [0.5],
        "std": [0.25],
        "input_shape": [48, 48, 1],
        "crop_fraction": 0.9,
        "crop_mode": "squash",
        "interpolation": "lanczos",
    }
    found = preprocessing_of(report(said), "lenet5")
    assert found == Preprocessing(48, (0.5,), (0.25,), 0.9, "squash", "lanczos", 1)
    # That is what `to_dict` says, too.
    assert preprocessing_of(report(found.to_dict()), "lenet5") == found


def test_the_rest_is_the_models():
    found = preprocessing_of(report({}), "lenet5")
    assert found == INFO.preprocessing
    large = preprocessing_of(report({"input_shape": [96, 96, 1]}), "lenet5")
    assert large == dataclasses.replace(found, size=96, crop_fraction=0.875)
    with pytest.raises(ValueError, match="equal height and width"):
        preprocessing_of(report({"input_shape": [48, 32, 1]}), "lenet5")


def test_other_channels_have_the_mean_of_all():
    with pytest.warns(UserWarning, match="weights do not say how"):
        found = preprocessing_of(report({}, (32, 32, 3)), "lenet5")
    assert found.mean == (pytest.approx(INFO.mean[0]),) * 3
    said = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.4, 0.4]}
    found = preprocessing_of(report(said), "lenet5")
    assert (found.mean, found.std) == ((pytest.approx(0.2),), (pytest.approx(0.4),))


@pytest.fixture
def converted(tmp_path, lenet_arrays):
    """Writes converted weights that say how images are prepared; returns their path."""
    source = tmp_path / "source.safetensors"
    safetensors.numpy.save_file(lenet_arrays, source)
    convert(source, tmp_path / "plain.safetensors", "lenet5")

    def write(**said):
        path = tmp_path / "plain.safetensors"
        content = path.read_bytes()
        arrays = safetensors.numpy.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = json.loads(header["__metadata__"][METADATA_NAME])
        metadata["preprocessing"] = said
        written = tmp_path / "written.safetensors"
        text = json.dumps(metadata)
        written.write_bytes(safetensors.numpy.save(arrays, {METADATA_NAME: text}))
        return written

    return write


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"crop_fraction": 0.7},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"crop_mode": "pad"},
        {"interpolation": "lanczos"},
        {"interpolation": "nearest"},
        {"crop_fraction": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
    ],
    ids=str,
)
def test_predict_prepares_images_as_the_weights_say(said, converted, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    weights = converted(mean=[0.3], std=[0.2], **said)
    (found,) = predict(weights, [tmp_path / "image.png"], top=10)
    how = Preprocessing(32, (0.3,), (0.2,), channels=1, **{"crop_fraction": 1.0} | said)
    seen = np.asarray(eval_transform(how)(Image.fromarray(pixels)))
    x = (seen[None, ..., None] / np.float32(255) - 0.3) / np.float32(0.2)
    variables, _ = cnn_jax.load_pretrained("lenet5", weights)
    logits = np.asarray(
        cnn_jax.create_model("lenet5").apply(
            variables, x.astype(np.float32), train=False
        )
    )[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(
        found.probabilities, expected[list(found.classes)], rtol=1e-4
    )


@pytest.mark.parametrize(
    "said",
    [{"interpolation": "random"}, {"crop_mode": "random"}, {"crop_fraction": 2}],
    ids=str,
)
def test_what_no_image_is_prepared_by_is_refused(said, converted, tmp_path):
    weights = converted(**said)
    with pytest.raises(ValueError, match=rf"{weights}.*{next(iter(said))}: got"):
        cnn_jax.load_pretrained("lenet5", weights)
