"""The data's classes find their logits by name, or are refused."""

import numpy as np
import pytest

from cnn_jax.data.imagenet import imagenet_class_names, imagenet_wordnet_ids
from cnn_jax.evaluation.classes import match_classes

IDS, IMAGENET = imagenet_wordnet_ids(), imagenet_class_names()
PETS = ("cat", "dog", "fish")


def logits_of(*arguments):
    return match_classes(*arguments).logits.tolist()


def test_equal_names_in_order():
    found = match_classes(PETS, PETS, 3)
    assert (found.names, found.logits.tolist()) == (PETS, [0, 1, 2])
    assert found.logits.dtype == np.int32
    assert not found.is_imagenet


def test_names_in_another_order_are_found_by_name():
    found = match_classes(("fish", "cat", "dog"), PETS, 3)
    assert (found.names, found.logits.tolist()) == (PETS, [2, 0, 1])


def test_weights_without_names_take_the_datas():
    found = match_classes(PETS, None, 3)
    assert (found.names, found.logits.tolist()) == (PETS, [0, 1, 2])


@pytest.mark.parametrize("known", [None, IMAGENET, IDS], ids=["none", "names", "ids"])
@pytest.mark.parametrize(
    "places", [(1, 0, 7), (999,), tuple(range(1000))], ids=["three", "one", "all"]
)
def test_wordnet_ids_are_imagenets_classes(known, places):
    found = match_classes([IDS[place] for place in places], known, 1000)
    assert found.logits.tolist() == list(places)
    assert found.is_imagenet
    assert found.names == IMAGENET


@pytest.mark.parametrize("known", [None, IMAGENET], ids=["none", "names"])
def test_imagenets_names_are_its_classes_in_any_order(known):
    found = match_classes(sorted(IMAGENET), known, 1000)
    assert found.is_imagenet
    assert found.names == IMAGENET
    assert [IMAGENET[logit] for logit in found.logits] == sorted(IMAGENET)


def test_two_classes_of_one_name_are_told_apart_by_their_order():
    assert logits_of(("crane", "dog", "crane"), ("crane", "dog", "crane"), 3) == [
        *range(3)
    ]


def test_a_run_on_folders_named_by_wordnet_ids_has_its_own_logits():
    ten = IDS[100:110]
    assert logits_of(ten[3:5], ten, 10) == [3, 4]
    assert not match_classes(ten, ten, 10).is_imagenet


@pytest.mark.parametrize(
    ("data", "known", "number"),
    [
        (PETS, None, 4),
        (PETS[:2], PETS, 3),
        (("cat", "dog", "bird"), PETS, 3),
        ((*PETS, "bird"), PETS, 3),
        (("cat", "cat", "dog"), PETS, 3),
        (PETS, IMAGENET, 1000),
        ([str(number) for number in range(1000)], IMAGENET, 1000),
        (("crane", "crane", "dog"), ("crane", "dog", "crane"), 3),
        (IDS[:3], None, 1001),
        ((*IDS[:3], "n00000000"), IMAGENET, 1000),
        (IDS[:10], IDS[5:15], 10),
        (IDS[:10], PETS, 3),
    ],
    ids=lambda value: None if isinstance(value, int | None) else f"{len(value)}",
)
def test_other_classes_are_refused(data, known, number):
    with pytest.raises(ValueError, match=rf"flowers: got {len(data):,} classes") as e:
        match_classes(data, known, number, data="flowers")
    assert len(str(e.value)) < 500


def test_the_refusal_names_a_class_that_the_weights_lack():
    with pytest.raises(ValueError, match="The weights have no 'bird'"):
        match_classes(("cat", "dog", "bird"), PETS, 3)


def test_there_is_a_name_for_each_logit():
    with pytest.raises(ValueError, match="class names: got 3, expected 10"):
        match_classes(PETS, PETS, 10)
