"""The values that an annotation allows, and the message about others."""

import math
from typing import Annotated, Literal

import numpy as np
import pytest

from cnn_jax import ranges
from cnn_jax.ranges import Length, Pattern, Real, Text, Whole

COUNT = Annotated[int, Whole(1, 9)]
NUMBER = Annotated[float, Real(1e-3, 2.0, or_zero=True)]

RIGHT = [
    (3, COUNT),
    (np.int64(3), COUNT),
    (None, COUNT | None),
    (0.5, NUMBER),
    (2, NUMBER),
    (0, NUMBER),
    (np.float32(0.5), NUMBER),
    ("a", Annotated[str, Text("a name")]),
    ("", Annotated[str, Pattern()]),
    ((1, 2), Annotated[tuple[COUNT, ...], Length(1, 3)]),
    ((1, "a"), tuple[COUNT, Annotated[str, Text("a name")]]),
    ("x", Literal["x", "y"] | COUNT),
    (7, Literal["x", "y"] | COUNT),
    (True, bool),
]


@pytest.mark.parametrize(("value", "annotation"), RIGHT)
def test_what_is_in_the_range_is_right(value, annotation):
    assert ranges.problem(value, annotation) is None
    assert ranges.unbounded(annotation) == []


WRONG = [
    (0, COUNT, "a whole number of 1 to 9"),
    (10**400, COUNT, "a whole number of 1 to 9"),
    (True, COUNT, "a whole number of 1 to 9"),
    (1.0, COUNT, "a whole number of 1 to 9"),
    (np.True_, COUNT, "a whole number of 1 to 9"),
    (None, COUNT, "a whole number of 1 to 9"),
    ("x", COUNT | None, "a whole number of 1 to 9, or None"),
    *(
        (value, NUMBER, "a finite number, 0 or more (where not 0, 0.001 to 2)")
        for value in (math.nan, math.inf, -1, 1e-300, 3, True, 1j, 10**400, "1", None)
    ),
    ("", Annotated[str, Text("a name", 5)], "a name of 1 to 5 characters, none of the"),
    ("a\0", Annotated[str, Text("a name", 5)], "a name of 1 to 5 characters"),
    ("abcdef", Annotated[str, Text("a name", 5)], "a name of 1 to 5 characters"),
    ("(", Annotated[str, Pattern()], "one of Python's regular expressions"),
    ("a{99999999999}", Annotated[str, Pattern()], "one of Python's regular expr"),
    ((), Annotated[tuple[COUNT, ...], Length(1, 3)], "1 to 3 of them"),
    ((1,) * 4, Annotated[tuple[COUNT, ...], Length(1, 3)], "1 to 3 of them"),
    ((1, 0), tuple[COUNT, ...], "a tuple in which each entry is a whole number of 1"),
    ("11", tuple[Annotated[str, Text("a name")], ...], "a tuple in which each entry"),
    ((1,) * 2000, tuple[COUNT, ...], "a tuple in which each entry is"),
    ((1,), tuple[COUNT, COUNT], "(a whole number of 1 to 9; a whole number of 1 to"),
    (1, bool, "True or False"),
    ("z", Literal["x", "y"], "one of ('x', 'y')"),
    ([], Literal["x", "y"], "one of ('x', 'y')"),
    (True, Literal[1, 2], "one of (1, 2)"),
    (None, Literal["x"] | COUNT, "'x', or a whole number of 1 to 9"),
]


@pytest.mark.parametrize(("value", "annotation", "expected"), WRONG)
def test_what_is_not_is_said_to_be_expected(value, annotation, expected):
    assert expected in ranges.problem(value, annotation)


def test_types_are_compared_whatever_the_range():
    assert ranges.has_type(0, COUNT)
    assert ranges.has_type("z", Literal["x", "y"])
    assert not ranges.has_type("0", COUNT)
    assert not ranges.has_type(10**400, NUMBER)  # sums with it would overflow


def test_what_nothing_bounds_is_listed():
    annotation = tuple[int, Annotated[str, Text("a name")]] | float | None
    assert ranges.unbounded(annotation) == ["<class 'int'>", "<class 'float'>"]
    length = Annotated[tuple[int, ...], Length(1, 3)]
    assert ranges.unbounded(length) == ["<class 'int'>"]


def test_what_is_shown_is_one_short_line():
    class Loud:
        def __repr__(self):
            raise RuntimeError("no")

    for value in ("x" * 10_000, "\x1b[31m\n", 10**5000, Loud(), [[["a\nb"]]]):
        shown = ranges.shown(value)
        assert shown.isprintable()
        assert len(shown) < 200
    assert ranges.shown(1.5) == "1.5"
    assert ranges.shown(Loud()) == "a value of type Loud"


def test_lists_become_the_tuples_that_are_declared():
    pairs = tuple[tuple[str, float], ...]
    assert ranges.as_annotated([["a", 1.0]], pairs) == (("a", 1.0),)
    assert ranges.as_annotated([1], COUNT) == [1]
    assert ranges.as_annotated([1], tuple[COUNT, ...] | None) == (1,)
