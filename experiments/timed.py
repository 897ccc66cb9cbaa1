"""Comparisons of times as measurements of a study, in interleaved rounds."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cnn_jax.analysis.timing import Timing, time_interleaved
from cnn_jax.report import html, plots, table
from cnn_jax.report.statistics import student_interval
from cnn_jax.report.words import count
from cnn_jax.studies import Context, Measurement
from cnn_jax.studies.effects import Verdict, verdict

ROUNDS = 21
"""The most rounds of a comparison."""

MAX_SECONDS = 25.0
"""No round of a comparison starts after this time."""

SMOKE_ROUNDS, SMOKE_SECONDS = 3, 0.5

_HEADS: dict[Verdict, str] = {
    "seen": "Seen",
    "opposite": "The opposite was seen of",
    "not told apart": "Not told apart",
}

ONE_PROCESS = (
    "All rounds are of one start of the program: what another start would change is in "
    "no interval."
)


@dataclasses.dataclass(frozen=True)
class Call:
    """Something to be timed.

    Attributes:
      run: A function of no arguments; it returns the arrays that it is timed for.
      images: How many images a call goes through; None where that means nothing.
      facts: What else is known of it: keys of `FACTS` -> numbers.
    """

    run: Callable[[], Any]
    images: int | None = None
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Slower:
    """A claim that one call takes longer than another.

    Attributes:
      claim: One clause without a full stop.
      slow: The label of the call that takes longer.
      fast: The label of the other.
      per_image: Whether the times of an image are compared, not those of a call.
    """

    claim: str
    slow: str
    fast: str
    per_image: bool = False


FACTS = {
    "temporaries": table.Column(
        "temporaries",
        "Temporaries",
        "MB",
        ",.1f",
        1e-6,
        note="Memory beside arguments and results, as planned by the compiler.",
    ),
    "held": table.Column(
        "held",
        "Arguments and results",
        "MB",
        ",.1f",
        1e-6,
        note="Memory of both together; a result that takes the place of an argument "
        "counts once.",
    ),
}


def comparison(
    name: str,
    title: str,
    make_calls: Callable[[bool], Mapping[str, Call]],
    claims: Sequence[Slower] = (),
    explanation: Sequence[str] = (),
    cost: float = 2e11,
) -> Measurement:
    """Returns a measurement that times calls against each other.

    Args:
      name: Its name in results.
      title: What its table shows.
      make_calls: Takes whether it is only to be seen that everything runs; returns
        label -> call. What cannot be had here, such as another library, is left out.
      claims: What is judged, round by round: the ratio of two calls' times.
      explanation: Sentences on why; facts that need no measurement.
      cost: About how many multiply-adds it takes, for the estimate of the time left.
    """
    return Measurement(
        name,
        functools.partial(_measure, make_calls),
        functools.partial(_show, title, explanation),
        functools.partial(_sentences, claims),
        cost=cost,
    )


def _measure(
    make_calls: Callable[[bool], Mapping[str, Call]], context: Context
) -> dict[str, Any]:
    calls = make_calls(context.is_smoke)
    timings = time_interleaved(
        {label: call.run for label, call in calls.items()},
        repeats=SMOKE_ROUNDS if context.is_smoke else ROUNDS,
        max_seconds=SMOKE_SECONDS if context.is_smoke else MAX_SECONDS,
    )
    return {label: describe(calls[label], timings[label]) for label in calls}


def describe(call: Call, timing: Timing) -> dict[str, Any]:
    """Returns a call's rounds and what else is known of it, for JSON."""
    return {
        "seconds": list(timing.seconds),
        "first_seconds": timing.first_call_seconds,
        "images": call.images,
        **call.facts,
    }


def ratio_sentence(claim: Slower, found: Mapping[str, Any]) -> str:
    """Returns a claim with the ratio of the times, and whether it was seen.

    The ratio is the geometric mean over the rounds; its 95 % interval is Student's, of
    the logarithms.
    """
    missing = [label for label in (claim.slow, claim.fast) if label not in found]
    if missing:
        return f"No verdict on: {claim.claim}. {missing[0]} was not there."
    slow, fast = (found[label] for label in (claim.slow, claim.fast))
    images = slow["images"] / fast["images"] if claim.per_image else 1
    pairs = zip(slow["seconds"], fast["seconds"], strict=True)
    interval = student_interval([math.log(a / b / images) for a, b in pairs])
    mean, low, high = map(math.exp, (interval.mean, interval.low, interval.high))
    rounds = count(interval.num_samples, "round")
    unit = " for an image" if claim.per_image else ""
    told = f"The time of {claim.slow} is {mean:.3g} times that of {claim.fast}{unit}"
    judged = verdict(interval, "higher")
    if judged == "no verdict":
        return f"No verdict on: {claim.claim}. {told}, in one round."
    return (
        f"{_HEADS[judged]}: {claim.claim}. {told} "
        f"(95 % interval {low:.3g} to {high:.3g}, {rounds})."
    )


def _sentences(claims: Sequence[Slower], found: Mapping[str, Any]) -> list[str]:
    return [ratio_sentence(claim, found) for claim in claims]


def times_table(title: str, found: Mapping[str, Any], *notes: str) -> table.Table:
    """Returns the table with a row for each call, and notes below it."""
    # A step of fewer images is no better for being shorter.
    is_comparable = len({each["images"] for each in found.values()}) == 1
    best: Literal["lowest"] | None = "lowest" if is_comparable else None
    columns = [
        table.Column("call", "Call"),
        table.Column("median", "Median", "ms", ",.3f", 1e3, best),
        table.Column("low", "Quartiles from", "ms", ",.3f", 1e3),
        table.Column("high", "to", "ms", ",.3f", 1e3),
        table.Column(
            "first",
            "First call",
            "s",
            ",.2f",
            note="The very first call, compilation included where it compiles.",
        ),
        table.Column("speed", "Images/s", "", ",.0f", 1, "highest"),
        *FACTS.values(),
    ]
    rows = []
    for label, each in found.items():
        timing = Timing(tuple(each["seconds"]), 1, each["first_seconds"])
        low, high = timing.quartiles
        rows.append(
            {"call": label, "median": timing.median, "low": low, "high": high}
            | {"first": each["first_seconds"]}
            | ({"speed": each["images"] / timing.median} if each["images"] else {})
            | {name: each[name] for name in FACTS if name in each}
        )
    used = {key for row in rows for key in row}
    rounds = len(next(iter(found.values()))["seconds"])
    return table.Table(
        title,
        [column for column in columns if column.key in used],
        rows,
        [f"Medians of {count(rounds, 'interleaved round')}. Bold: the best.", *notes],
    )


def times_chart(title: str, found: Mapping[str, Any]) -> html.Chart:
    """Returns a bar for each call: the time of an image, or of the whole call."""
    bars = [
        (
            label,
            student_interval([each / (row["images"] or 1) for each in row["seconds"]]),
        )
        for label, row in found.items()
    ]
    is_of_images = all(row["images"] for row in found.values())
    svg = plots.bar_chart(
        bars,
        title=f"Times: {title}",
        description="; ".join(
            f"{label} {1e3 * value.mean:.3g} ms" for label, value in bars
        ),
        x_label=f"ms for {'an image' if is_of_images else 'a call'}",
        scale=1e3,
        limits=(0, 1.05e3 * max(value.high for _, value in bars)),
    )
    caption = "Means over the rounds with their 95 % intervals."
    return html.Chart(svg, "Time of an image" if is_of_images else "Time", caption)


def _show(
    title: str, explanation: Sequence[str], found: Mapping[str, Any]
) -> Sequence[Any]:
    return [
        times_table(title, found, ONE_PROCESS),
        html.Charts([times_chart(title, found)]),
        *map(html.Paragraph, explanation),
    ]
