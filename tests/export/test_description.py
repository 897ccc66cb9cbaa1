"""Descriptions of networks, as JSON."""

import json

import pytest

from cnn_jax.export import Description
from cnn_jax.preprocessing import Preprocessing

DESCRIPTION = Description(
    model="lenet5",
    num_classes=2,
    class_names=("cat", "dog"),
    preprocessing=Preprocessing(32, (0.5,), (0.25,), channels=1),
    normalized=False,
    versions={"jax": "0.10.2"},
)


def through_json(**changes):
    return json.loads(json.dumps(DESCRIPTION.to_dict() | changes))


def test_comes_back_through_json():
    assert Description.from_dict(through_json()) == DESCRIPTION


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "weights"},
        {"version": "1"},
        {"model": None},
        {"num_classes": 2.0},
        {"num_classes": True},
        {"class_names": ["cat"]},
        {"class_names": "ab"},
        {"class_names": [1, 2]},
        {"preprocessing": []},
        {"preprocessing": {"size": 0}},
        {"preprocessing": {"size": 32, "mean": None, "std": None}},
        {"normalized": 0},
        {"versions": {"jax": 1}},
    ],
    ids=str,
)
def test_what_it_cannot_say_is_an_error(changes):
    with pytest.raises((TypeError, ValueError)):
        Description.from_dict(through_json(**changes))


@pytest.mark.parametrize("name", sorted(set(through_json()) - {"input", "output"}))
def test_nothing_may_be_missing(name):
    saved = through_json()
    del saved[name]
    with pytest.raises(KeyError):
        Description.from_dict(saved)
