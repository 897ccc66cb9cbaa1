"""Comparisons of a gradient with the same gradient found another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.report import table
from cnn_jax.report.statistics import student_interval
from cnn_jax.report.words import count, listed
from cnn_jax.studies import Context

EXACT = 1e-12
"""The largest difference that agrees, in float64, relative to the reference's largest
entry: float64 resolves 2.2e-16, and sums have some thousand terms."""

BY_DIFFERENCES = 1e-7
"""The same for finite differences, which divide rounding errors by 2e-5."""

FLOAT32 = 1e-4
"""The same in float32, which resolves 1.2e-7."""

STEP = 1e-5

Check = dict[str, Any]


def num_seeds(context: Context) -> int:
    """Returns how often what is random is drawn."""
    return context.size.seeds


def check(
    gradient: str, method: str, found: Any, reference: Any, tolerance: float = EXACT
) -> Check:
    """Compares two arrays, as a record that JSON can hold.

    Args:
      gradient: What they are, such as "dx".
      method: How `found` was computed.
      found: An array of any type.
      reference: The array it should be.
      tolerance: The largest difference that agrees.

    Returns:
      "difference": the largest one, relative to the reference's largest entry; None if
      it is no finite number or the shapes differ.
    """
    found, reference = (np.asarray(each, np.float64) for each in (found, reference))
    difference = None
    if found.shape == reference.shape:
        size = float(np.abs(reference).max()) or 1.0
        largest = float(np.abs(found - reference).max()) / size
        difference = largest if np.isfinite(largest) else None
    return {
        "gradient": gradient,
        "method": method,
        "difference": difference,
        "tolerance": tolerance,
    }


def agrees(check: Mapping[str, Any]) -> bool:
    """Returns whether a comparison found no difference beyond its tolerance."""
    difference = check["difference"]
    return difference is not None and difference <= check["tolerance"]


def finite_differences(
    function: Callable[..., Any], arguments: Sequence[np.ndarray], place: int
) -> np.ndarray:
    """Returns the derivative of a number by each entry of one argument.

    Args:
      function: Returns a number.
      arguments: Its arguments, float64.
      place: Which one to derive by.
    """
    moved = arguments[place]
    result = np.zeros(moved.shape)
    for index in np.ndindex(moved.shape):
        ends = []
        for step in (STEP, -STEP):
            changed = moved.copy()
            changed[index] += step
            others = [*arguments[:place], changed, *arguments[place + 1 :]]
            ends.append(float(function(*others)))
        result[index] = (ends[0] - ends[1]) / (2 * STEP)
    return result


def check_table(title: str, checks: Sequence[Mapping[str, Any]]) -> table.Table:
    """Returns a row for each gradient and a column for each method.

    A number is the largest difference of all comparisons of that gradient and method.
    """
    methods = list(dict.fromkeys(each["method"] for each in checks))
    rows = []
    for gradient in dict.fromkeys(each["gradient"] for each in checks):
        row: dict[str, Any] = {"gradient": gradient}
        own = [each for each in checks if each["gradient"] == gradient]
        for method in methods:
            differences = [c["difference"] for c in own if c["method"] == method]
            if differences and None not in differences:
                row[method] = max(differences)
        row["verdict"] = "agrees" if all(map(agrees, own)) else "WRONG"
        rows.append(row)
    tolerances = {each["method"]: each["tolerance"] for each in checks}
    limits = "; ".join(
        f"{listed([m for m in methods if tolerances[m] == limit])} up to {limit:.0e}"
        for limit in sorted(set(tolerances.values()))
    )
    return table.Table(
        title,
        [
            table.Column("gradient", "Gradient"),
            *(table.Column(method, method, "", ".2g") for method in methods),
            table.Column("verdict", "Verdict"),
        ],
        rows,
        [
            "The largest difference, relative to the reference's largest entry. "
            f"Agreement is for {limits}."
        ],
    )


def wrong(
    sentences: Callable[[Mapping[str, Any]], Sequence[str]],
) -> Callable[[Mapping[str, Any]], Sequence[str]]:
    """Returns what finds the sentences of a measurement on gradients that differ."""

    def failures(found: Mapping[str, Any]) -> Sequence[str]:
        return [text for text in sentences(found) if text.startswith("WRONG")]

    return failures


def verdict(subject: str, checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns whether all comparisons agree, else a sentence for each that does not."""
    wrong = [each for each in checks if not agrees(each)]
    if wrong:
        return [
            f"WRONG: {subject}: {each['gradient']} by {each['method']} differs by "
            + (
                "what is no finite number, or in its shape"
                if each["difference"] is None
                else f"{each['difference']:.1e} of the largest entry"
            )
            + f" (agreement is up to {each['tolerance']:.0e})."
            for each in wrong
        ]
    parts = []
    for tolerance in sorted({each["tolerance"] for each in checks}):
        own = [c["difference"] for c in checks if c["tolerance"] == tolerance]
        parts.append(f"{max(own):.2g} where up to {tolerance:.0e} is rounding")
    return [
        f"{subject}: all {count(len(checks), 'comparison')} agree. Largest difference, "
        f"relative to the largest entry: {'; '.join(parts)}."
    ]


def with_interval(values: Sequence[float], spec: str) -> str:
    """Returns the mean of some seeds with its 95 % interval, for a sentence."""
    found = student_interval(values)
    if len(values) < 2:
        return f"{found.mean:{spec}} (one seed)"
    return (
        f"{found.mean:{spec}} (95 % interval {found.low:{spec}} to "
        f"{found.high:{spec}}, {count(len(values), 'seed')})"
    )
