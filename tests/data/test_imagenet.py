"""ImageNet's classes, as they ship with the package."""

import configparser
import fnmatch
import importlib.util
import pathlib
import re

import pytest
from references import libraries

from cnn_jax.data.imagenet import imagenet_class_names, imagenet_wordnet_ids

ROOT = pathlib.Path(__file__).parents[2]


def folder_of(package):
    """Returns the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return pathlib.Path(spec.origin).parent


def test_a_thousand_names_in_the_order_of_their_ids():
    names, ids = imagenet_class_names(), imagenet_wordnet_ids()
    assert len(names) == len(ids) == 1000
    assert len(set(names)) == len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    assert all(re.fullmatch(r"n\d{8}", each) for each in ids)
    assert all(name == name.strip() and name for name in names)
    known = {"n01440764": "tench", "n02123045": "tabby", "n07920052": "espresso"}
    assert known.items() <= dict(zip(ids, names, strict=True)).items()
    assert (names[0], names[281], names[967]) == tuple(known.values())
    assert names[999] == "toilet tissue"


def test_the_ids_are_those_of_tensorflow_datasets():
    path = folder_of("tensorflow_datasets") / "datasets/imagenet2012/labels.txt"
    assert list(imagenet_wordnet_ids()) == path.read_text().split()


@pytest.mark.parity
def test_ids_and_names_are_those_of_timm_and_torchvision():
    path = folder_of("timm") / "data/_info/imagenet_synsets.txt"
    assert list(imagenet_wordnet_ids()) == path.read_text().split()
    folder_of("torchvision")
    libraries.import_torchvision()
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert list(imagenet_class_names()) == _IMAGENET_CATEGORIES


def test_wheels_have_every_file_of_the_package():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    patterns = parser["options.package_data"]["cnn_jax"].split()
    package = ROOT / "cnn_jax"
    others = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert "data/imagenet_classes.tsv" in others
    for other in others:
        assert any(fnmatch.fnmatch(other, pattern) for pattern in patterns), other
