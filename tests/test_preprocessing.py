"""The value that says how an image becomes a network's input."""

import dataclasses
import json

import pytest

from cnn_jax.preprocessing import IMAGENET_MEAN, Preprocessing, known_fields

OWN = Preprocessing(
    48,
    mean=(0.5,),
    std=(0.25,),
    crop_fraction=0.9,
    crop_mode="squash",
    interpolation="lanczos",
    channels=1,
)


@pytest.mark.parametrize(
    "value",
    [OWN, Preprocessing(224), Preprocessing(8, None, None, channels=5)],
    ids=["own", "default", "floating-point"],
)
def test_goes_through_json(value):
    assert Preprocessing.from_dict(json.loads(json.dumps(value.to_dict()))) == value


def test_default_is_imagenets():
    assert Preprocessing(224).input_shape == (224, 224, 3)
    assert Preprocessing(224).mean == IMAGENET_MEAN
    assert hash(Preprocessing(224)) == hash(Preprocessing(224))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size: got 0, expected a whole number"),
        ({"size": True}, "size: got True"),
        ({"mean": (2.0,)}, r"mean: got \(2.0,\), expected"),
        ({"mean": [0.5]}, "mean: got"),
        ({"std": (0.0,)}, r"std: got \(0.0,\)"),
        ({"std": (float("nan"),)}, "std: got"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "got 2 numbers for images of 1 chan"),
        ({"mean": None}, "expected mean and std or none"),
        ({"std": None}, "expected mean and std or none"),
        ({"crop_fraction": 0.0}, "crop_fraction: got 0.0, expected"),
        ({"crop_fraction": 1.01}, "crop_fraction: got 1.01"),
        ({"crop_mode": "centre"}, "crop_mode: got 'centre', expected one of"),
        ({"interpolation": "hamming"}, "interpolation: got 'hamming', expected one of"),
        ({"channels": 0}, "channels: got 0"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(OWN, **changes)


@pytest.mark.parametrize(
    "saved", [{}, {"mean": [0.5]}, {"size": 8, "sise": 9}], ids=["{}", "part", "other"]
)
def test_other_fields_are_refused(saved):
    with pytest.raises(ValueError, match="expected the fields of a Preprocessing"):
        Preprocessing.from_dict(saved)


@pytest.mark.parametrize(
    ("value", "size", "fraction"),
    [
        (Preprocessing(224, crop_fraction=0.95), 160, 0.95),
        (Preprocessing(224, crop_fraction=0.95), 64, 1.0),
        (Preprocessing(32, crop_fraction=1.0), 224, 0.875),
        (Preprocessing(32, crop_fraction=0.9), 32, 0.9),
    ],
    ids=["photographs", "smaller", "larger", "the same"],
)
def test_small_images_of_another_size_are_seen_whole(value, size, fraction):
    assert value.at(size) == dataclasses.replace(
        value, size=size, crop_fraction=fraction
    )


class TestKnownFields:
    def test_are_those_that_are_said(self):
        assert known_fields({}) == {}
        said = {"mean": [0.5], "crop_fraction": 1, "anything": object()}
        assert known_fields(said) == {"mean": (0.5,), "crop_fraction": 1}
        assert known_fields(OWN.to_dict()) == dataclasses.asdict(OWN)

    def test_an_input_shape_is_size_and_channels(self):
        assert known_fields({"input_shape": [8, 8, 5]}) == {"size": 8, "channels": 5}
        assert known_fields({"input_shape": [8, 9, 5], "size": 8}) == {"channels": 5}

    @pytest.mark.parametrize(
        "said",
        [
            {"mean": 3},
            {"mean": [None]},
            {"std": ["x"]},
            {"input_shape": [8, 8]},
            {"input_shape": [8, 8, 1e9]},
            {"crop_fraction": "x"},
            {"crop_mode": "random"},
            {"interpolation": "random"},
            {"interpolation": 3},
        ],
        ids=lambda said: str(said).strip("{}"),
    )
    def test_are_checked(self, said):
        with pytest.raises(ValueError, match=f"{next(iter(said))}: got .*, expected"):
            known_fields(said)
