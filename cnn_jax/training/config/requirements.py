"""Requirements of a field's value, as data that `TrainConfig.validate` collects.

A part of the configuration lists its requirements as `(field, holds, expected)`; those
that do not hold become one message. Fields annotated with `Literal` need no
requirement: their values are checked against the annotation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from operator import index
from typing import Any

from cnn_jax.geometry import is_integer

Requirement = tuple[str, bool, str]
"""The field's name, whether its value is valid, and the values expected."""


def at_least_one(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires counts: whole numbers, 1 or more."""
    for field in fields:
        holds = _is_count(getattr(config, field), least=1)
        yield field, holds, "a whole number of at least 1"


def at_least_one_if_given(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires counts, or None."""
    for field in fields:
        value = getattr(config, field)
        holds = value is None or _is_count(value, least=1)
        yield field, holds, "a whole number of at least 1, or None"


def count_from_zero(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires counts that may be 0."""
    for field in fields:
        holds = _is_count(getattr(config, field), least=0)
        yield field, holds, "a whole number, 0 or more"


def not_negative(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires finite numbers, 0 or more."""
    for field in fields:
        value = getattr(config, field)
        holds = math.isfinite(value) and value >= 0
        yield field, holds, "a finite number, 0 or more"


def positive(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires finite numbers above 0."""
    for field in fields:
        value = getattr(config, field)
        yield field, math.isfinite(value) and value > 0, "a finite number above 0"


def below_one(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires shares and decays: 0 or more and below 1."""
    for field in fields:
        yield field, 0 <= getattr(config, field) < 1, "in [0, 1)"


def positive_if_given(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires finite numbers above 0, or None."""
    for field in fields:
        value = getattr(config, field)
        holds = value is None or (math.isfinite(value) and value > 0)
        yield field, holds, "a finite number above 0, or None"


def below_one_if_given(config: Any, *fields: str) -> Iterable[Requirement]:
    """Requires shares and decays, or None."""
    for field in fields:
        value = getattr(config, field)
        yield field, value is None or 0 <= value < 1, "in [0, 1), or None"


def is_pattern(text: str) -> bool:
    """Tells whether a text is a regular expression."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _is_count(value: object, *, least: int) -> bool:
    return is_integer(value) and index(value) >= least
