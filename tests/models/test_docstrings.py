"""The table in each family's docstring says what the data says."""

import importlib
import pkgutil
import re

import pytest

from cnn_jax import models

FILES = [
    importlib.import_module(f"cnn_jax.models.{module.name}")
    for module in pkgutil.iter_modules(models.__path__)
    if module.name not in ("fields", "interface", "registry")
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__.split(".")[-1])
def test_table_is_the_data(file):
    rows = re.findall(
        r"^    ([\w.]+) +([\d,]+) +([\d,.]+) +([\d.]+|-)$", file.__doc__, re.MULTILINE
    )
    expected = [
        (
            name,
            f"{variant.parameters:,}",
            f"{variant.macs / 1e6:,.1f}",
            "-" if variant.top1 is None else f"{variant.top1:.2f}",
        )
        for family in file.FAMILIES
        for name, variant in family.variants.items()
    ]
    assert sorted(rows) == sorted(expected)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__.split(".")[-1])
def test_paper_and_year_stand_in_the_first_line(file):
    first = file.__doc__.partition("\n")[0]
    for family in file.FAMILIES:
        assert str(family.year) in first
        if any(variant.top1 is not None for variant in family.variants.values()):
            assert family.top1_source
