"""Ranges that several fields have, and requirements between fields, as data.

A field's own range stands in its annotation (see `cnn_jax.ranges`). What one field
requires of another a part of the configuration lists as `(field, holds, expected)`;
`TrainConfig.validate` makes one message of all that do not hold.
"""

from __future__ import annotations

from typing import Annotated

from cnn_jax.ranges import LONGEST_TEXT, Pattern, Real, Text

Requirement = tuple[str, bool, str]
"""The field's name, whether its value is valid, and the values expected."""

MAX_EPOCHS = 1_000_000
"""The most epochs of a run."""

Share = Annotated[float, Real(1e-6, 0.99, or_zero=True)]
"""A share of which something is left: at 0.99 a hundredth."""

Decay = Annotated[float, Real(1e-6, 1 - 1e-6, or_zero=True)]
"""The weight of the past in a moving average, which still moves in float32."""

Patterns = tuple[Annotated[str, Pattern()], ...]
"""Regular expressions on parameter paths."""

Path = Annotated[str, Text("a path", LONGEST_TEXT)]
"""The path of a file or a directory, or its `gs://` address."""
