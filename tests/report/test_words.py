"""Numbers and lists as a sentence has them."""

import math

import pytest

from cnn_jax.report import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (120, "2 min"), (7200, "2.0 h"), (math.pi, "3 s")],
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


def test_count_and_list():
    assert [words.count(n, "seed") for n in (0, 1, 1797)] == [
        "0 seeds",
        "1 seed",
        "1,797 seeds",
    ]
    assert [words.listed(list("abc")[:n]) for n in range(4)] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert words.listed(["a", "b"], "or") == "a or b"
