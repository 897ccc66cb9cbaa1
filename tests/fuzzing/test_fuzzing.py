"""Mutated files of every format: read or refused, within bounds, without effects."""

import random
import re

import pytest

from fuzzing.formats import all_formats
from fuzzing.mutations import mutate, of_bytes, of_json, of_lines, of_zip
from fuzzing.run import UnavailableError, fuzz, sentence


def check(name, seeds, **options):
    """Checks that no mutation of a format fails."""
    try:
        totals = fuzz(name, seeds, **options)
    except UnavailableError as error:
        pytest.skip(str(error))
    failures = sorted(totals.failures.values(), key=lambda each: each.seed)
    assert not failures, sentence(name, totals) + "".join(
        f"\n{name} {each.seed} ({each.mutated}): {each.end}\n{each.text}"
        for each in failures[:5]
    )
    assert totals.mutations == len(seeds)
    assert totals.refused > len(seeds) // 20  # else the mutations do nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", all_formats())
def test_30_of_each(name):
    check(name, range(30))


@pytest.mark.nightly
@pytest.mark.parametrize("name", all_formats())
def test_10000_of_each(name):
    check(name, range(30, 10_030), jobs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reader", "end"),
    [
        ("TYPE_ERROR", "raised TypeError"),
        ("NO_PATH", "raised an error that does not name the path"),
        ("HANG", "took over 12 s"),
        ("EXIT", r"ended the process \(7\)"),
        ("MEMORY", r"took \d+ MiB"),
        ("CLAIM", "asked for more memory than there is"),
        ("WRITES", "wrote .*new"),
        ("IMPORTS", "imported this"),
        ("COMMAND", "os.system"),
        ("UNPICKLES", "pickle.find_class"),
    ],
)
def test_what_a_reader_must_not_do_is_noticed(reader, end):
    totals = fuzz(f"fuzzing.broken:{reader}", range(1))
    assert totals.mutations == 1
    assert totals.failures
    for outcome in totals.failures.values():
        assert re.match(end, outcome.end)


def test_refusing_is_no_failure():
    totals = fuzz("fuzzing.broken:REFUSES", range(20))
    assert not totals.failures
    assert totals.refused > 10


@pytest.mark.parametrize(
    ("content", "mutation"),
    [
        (b'{"a": [1, 2, {"b": "text"}], "c": null}', of_json),
        (b'{"step": 1}\n{"step": 2}\n', of_lines(of_json)),
        (b"any bytes" * 99, of_bytes),
        (b"", of_bytes),
        (b"", of_zip(of_bytes)),
        (b"{no json", of_json),
    ],
)
def test_mutations_depend_on_the_seed_alone(content, mutation):
    def draw():
        return [
            mutate(content, random.Random(seed), [mutation] if seed % 2 else [])
            for seed in range(200)
        ]

    found = draw()
    assert found == draw()
    assert len(set(found)) > 20
