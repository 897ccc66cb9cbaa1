"""The values that a field may have, declared in its annotation.

A range stands beside the field, in `Annotated`, and everything that checks the field
reads it there:

    batch_size: Annotated[int, Whole(1, 2**24)] = 128
    epsilon: Annotated[float, Real(1e-16, 1.0)] | None = None

`problem` compares a value with an annotation, types included. Numbers are bounded as
float32 has them: what it rounds to 0 or to infinity is refused, so that no option does
nothing without a word.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from typing import Annotated, Any, Literal, TypeGuard

import numpy as np

from cnn_jax.messages import printable

LONGEST_TEXT = 4096
"""The most characters of a text: more than a path on Linux can have."""

MAX_COUNT = 2**31 - 1
"""The largest count: steps are numbered by int32."""

MAX_SIDE = 2**15
"""The largest height and width of an image."""

LONGEST_SHOWN = 120
"""Characters of a value that an error shows."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Whole numbers from `least` to `most`; no booleans."""

    least: int
    most: int = MAX_COUNT

    @property
    def expected(self) -> str:
        """The range as an error says it."""
        return f"a whole number of {self.least:,} to {self.most:,}"

    def holds(self, value: object) -> bool:
        """Returns whether a value is one."""
        return _is_whole(value) and self.least <= value <= self.most


@dataclasses.dataclass(frozen=True)
class Real:
    """Finite numbers from `least` to `most`; no booleans.

    Attributes:
      least: The smallest.
      most: The largest.
      or_zero: Whether 0 is allowed too, below `least`.
      hint: What to do instead, for an error.
    """

    least: float
    most: float
    or_zero: bool = False
    hint: str = ""

    @property
    def expected(self) -> str:
        """The range as an error says it."""
        bounds = " to ".join(
            f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}"
            for bound in (self.least, self.most)
        )
        hint = f"; {self.hint}" if self.hint else ""
        if self.or_zero:
            return f"a finite number, 0 or more (where not 0, {bounds}){hint}"
        return f"a finite number from {bounds}{hint}"

    def holds(self, value: object) -> bool:
        """Returns whether a value is one."""
        if not _is_number(value):
            return False
        # Nothing compares with NaN; a huge whole number compares without overflowing.
        return self.least <= value <= self.most or (self.or_zero and value == 0)


@dataclasses.dataclass(frozen=True)
class Text:
    """Texts of 1 to `longest` characters, without the NUL that no path may have.

    Attributes:
      what: The text as an error calls it.
      longest: The most characters.
      may_be_empty: Whether it may be empty.
    """

    what: str
    longest: int = LONGEST_TEXT
    may_be_empty: bool = False

    @property
    def expected(self) -> str:
        """The range as an error says it."""
        least = 0 if self.may_be_empty else 1
        return (
            f"{self.what} of {least} to {self.longest:,} characters, none of them NUL"
        )

    def holds(self, value: object) -> bool:
        """Returns whether a value is one."""
        return (
            isinstance(value, str)
            and (self.may_be_empty or value != "")
            and len(value) <= self.longest
            and "\0" not in value
        )


@dataclasses.dataclass(frozen=True)
class Pattern(Text):
    """Regular expressions; the empty one matches everything."""

    what: str = "a regular expression"
    longest: int = 1000
    may_be_empty: bool = True

    @property
    def expected(self) -> str:
        """The range as an error says it."""
        return f"one of Python's regular expressions, up to {self.longest:,} characters"

    def holds(self, value: object) -> bool:
        """Returns whether a value is one."""
        if not super().holds(value):
            return False
        try:
            re.compile(typing.cast(str, value))
        except (re.error, OverflowError, RecursionError):
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Length:
    """Tuples of `least` to `most` entries."""

    least: int
    most: int

    @property
    def expected(self) -> str:
        """The range as an error says it."""
        return f"{self.least:,} to {self.most:,} of them"

    def holds(self, value: object) -> bool:
        """Returns whether a value is one."""
        return isinstance(value, tuple) and self.least <= len(value) <= self.most


Range = Whole | Real | Text | Length

MAX_ENTRIES = 1000
"""The most entries of a tuple without a `Length` of its own."""

_TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "None",
}


def declared(kind: type) -> dict[str, Any]:
    """Returns the annotations of a class's fields, with their ranges."""
    return _type_hints(kind)


def problem(value: object, annotation: Any) -> str | None:
    """Compares a value with an annotation.

    Args:
      value: Any value.
      annotation: `bool`, `int`, `float`, `str`, `None`, a `Literal`, a tuple or a union
        of these, each perhaps with a range in `Annotated`.

    Returns:
      What was expected, for an error; None if the value is that.
    """
    return None if _holds(value, annotation) else _expected(annotation)


def has_type(value: object, annotation: Any) -> bool:
    """Returns whether a value is of an annotation's type, whatever its range."""
    return _holds(value, annotation, ranges=False)


def unbounded(annotation: Any) -> list[str]:
    """Returns the types in an annotation that nothing bounds, for a test of a class."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        bounded = any(isinstance(part, Range) for part in parts[1:])
        found = unbounded(parts[0])
        return found if _is_tuple(parts[0]) or not bounded else []
    if typing.get_origin(annotation) is Literal:
        return []
    if _is_union(annotation) or _is_tuple(annotation):
        return [each for part in parts if part is not ... for each in unbounded(part)]
    return [] if annotation in (bool, types.NoneType) else [str(annotation)]


def as_annotated(value: Any, annotation: Any) -> Any:
    """Returns a value with tuples for the lists in it, where it is to be a tuple."""
    if isinstance(value, list) and _takes_tuple(annotation):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    return value


def shown(value: object) -> str:
    """Returns a value as an error shows it: on one line, and not all of a long one."""
    try:
        text = printable(repr(value))
    except Exception:  # whatever an object's own repr runs into
        text = f"a value of type {type(value).__name__}"
    if len(text) <= LONGEST_SHOWN:
        return text
    return f"{text[:LONGEST_SHOWN]}... ({len(text):,} characters)"


@functools.lru_cache
def _type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _holds(value: object, annotation: Any, *, ranges: bool = True) -> bool:
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _holds(value, parts[0], ranges=ranges) and all(
            part.holds(value)
            for part in parts[1:]
            if ranges and isinstance(part, Range)
        )
    if typing.get_origin(annotation) is Literal:
        # 1 is equal to True.
        return any(
            type(value) is type(part) and (not ranges or value == part)
            for part in parts
        )
    if _is_union(annotation):
        return any(_holds(value, part, ranges=ranges) for part in parts)
    if _is_tuple(annotation):
        return _holds_tuple(value, parts, ranges=ranges)
    if annotation is float:
        # What else a field is compared with must not overflow.
        return _is_number(value) and (not _is_whole(value) or abs(value) < 2**1000)
    if annotation is int:
        return _is_whole(value)
    return isinstance(value, annotation)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return _is_whole(value) or isinstance(value, float | np.floating)


def _holds_tuple(value: object, parts: tuple[Any, ...], *, ranges: bool) -> bool:
    if not isinstance(value, tuple) or (ranges and len(value) > MAX_ENTRIES):
        return False
    if parts[-1] is ...:
        return all(_holds(each, parts[0], ranges=ranges) for each in value)
    return len(value) == len(parts) and all(
        _holds(each, part, ranges=ranges)
        for each, part in zip(value, parts, strict=True)
    )


def _expected(annotation: Any) -> str:
    """Returns what an error says of an annotation."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        texts = [part.expected for part in parts[1:] if isinstance(part, Range)]
        if _is_tuple(parts[0]) or not texts:
            texts.insert(0, _expected(parts[0]))
        return ", ".join(texts)
    if typing.get_origin(annotation) is Literal:
        return f"one of {parts}" if len(parts) > 1 else repr(parts[0])
    if _is_union(annotation):
        # None last: it is the exception.
        ordered = sorted(parts, key=lambda part: part is types.NoneType)
        return ", or ".join(map(_expected, ordered))
    if _is_tuple(annotation):
        if parts[-1] is ...:
            return f"a tuple in which each entry is {_expected(parts[0])}"
        return f"({'; '.join(map(_expected, parts))})"
    return _TYPES.get(annotation, str(annotation))


def _takes_tuple(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated or _is_union(annotation):
        return any(map(_takes_tuple, typing.get_args(annotation)))
    return _is_tuple(annotation)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _is_tuple(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple
