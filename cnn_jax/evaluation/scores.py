"""Scores of a network from its logits and the labels: pure functions.

The calibration error and its 15 equal-width bins are those of Guo et al. (2017), "On
Calibration of Modern Neural Networks", as `training.step.evaluation` sums them; the
intervals are Wilson's (1927).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.report.statistics import Interval, wilson_interval
from cnn_jax.training.step.evaluation import (
    NUM_BINS,
    Metrics,
    evaluation_metrics,
    logit_sums,
)


class Guesses(NamedTuple):
    """The most probable class of each example of a split; 20 bytes an example.

    Attributes:
      index: The example's number in the split, int64 `(n,)`.
      label: The logit of its class, int32 `(n,)`.
      predicted: The greatest logit, int32 `(n,)`.
      probability: That of the predicted class after softmax, float32 `(n,)`.
      label_probability: That of the example's class, float32 `(n,)`.
    """

    index: np.ndarray  # type: ignore[assignment]  # hides what tuples have
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    label_probability: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bin:
    """The examples whose confidence is in one of the equal bins.

    Attributes:
      low: The lowest confidence, which is not in the bin.
      high: The highest, which is.
      num_examples: How many there are.
      accuracy: Of these examples; None without any.
      confidence: The mean probability of their predicted classes; None likewise.
    """

    low: float
    high: float
    num_examples: int
    accuracy: float | None
    confidence: float | None


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """The accuracy on the examples of one class.

    Attributes:
      index: Its logit.
      name: Its name.
      num_examples: How many examples it has; at least one.
      num_correct: How many of them were predicted.
    """

    index: int
    name: str
    num_examples: int
    num_correct: int


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The examples of one class that another one was predicted for.

    Attributes:
      label: The class's logit.
      predicted: The other's.
      num_examples: How many there are; at least one.
    """

    label: int
    predicted: int
    num_examples: int


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An example that another class was predicted for.

    Attributes:
      index: Its number in the split.
      label: The logit of its class.
      predicted: The predicted one.
      probability: That of the predicted class.
      label_probability: That of the example's own class.
      picture: What the network saw, as a data URI of a PNG; None where there is none.
    """

    index: int
    label: int
    predicted: int
    probability: float
    label_probability: float
    picture: str | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a network on a split.

    Attributes:
      num_examples: How many examples count.
      num_correct: Of how many the greatest logit is that of their class.
      accuracy: Their share, with Wilson's 95 % interval.
      top5_accuracy: The share whose class is among the five greatest logits, likewise;
        None for fewer than five logits.
      loss: The mean cross-entropy.
      calibration_error: The mean gap between confidence and accuracy, over bins.
      bins: The bins of confidence.
      class_names: One name for each logit.
      classes: Those classes that have examples, in the order of the logits.
      confusions: The pairs of classes that were confused, the most frequent first.
      mistakes: The surest ones, the surest first.
    """

    num_examples: int
    num_correct: int
    accuracy: Interval
    top5_accuracy: Interval | None
    loss: float
    calibration_error: float
    bins: tuple[Bin, ...]
    class_names: tuple[str, ...]
    classes: tuple[ClassScore, ...]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]


def score_batch(
    logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> tuple[Metrics, dict[str, jax.Array]]:
    """Returns a batch's sums and its examples' guesses; it can be traced.

    Args:
      logits: `(n, classes)`.
      labels: int32 `(n,)`.
      mask: `(n,)`, 1.0 for an example that counts.

    Returns:
      `training.step.evaluation.logit_sums`, and the arrays of `Guesses` without the
      index.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    own = jnp.take_along_axis(probabilities, labels[:, None], axis=-1)
    return logit_sums(logits, labels, mask), {
        "label": labels,
        "predicted": jnp.argmax(logits, axis=-1).astype(jnp.int32),
        "probability": jnp.max(probabilities, axis=-1),
        "label_probability": own[:, 0],
    }


def scores_of(
    sums: Mapping[str, Any],
    guesses: Guesses,
    class_names: Sequence[str],
    *,
    num_mistakes: int = 12,
) -> Scores:
    """Returns the scores of a split from the sums and guesses of all its batches.

    Args:
      sums: Those of `score_batch`, added up.
      guesses: Those of all examples that count.
      class_names: One name for each logit.
      num_mistakes: How many of the surest mistakes to keep.

    Raises:
      ValueError: If no example counts.
    """
    count = int(sums["count"])
    if not count:
        raise ValueError("got no example that can be read, expected at least one.")
    metrics = evaluation_metrics(sums)
    top5 = metrics.get("top5_accuracy")
    return Scores(
        num_examples=count,
        num_correct=int(sums["correct"]),
        accuracy=wilson_interval(metrics["accuracy"], count),
        top5_accuracy=None if top5 is None else wilson_interval(top5, count),
        loss=metrics["loss"],
        calibration_error=metrics["calibration_error"],
        bins=reliability(sums),
        class_names=tuple(class_names),
        classes=class_scores(guesses, class_names),
        confusions=confusions_of(guesses),
        mistakes=surest_mistakes(guesses, num_mistakes),
    )


def reliability(sums: Mapping[str, Any]) -> tuple[Bin, ...]:
    """Returns the bins of confidence out of the sums of a split."""
    bins = []
    for number in range(NUM_BINS):
        count = int(sums["bin_count"][number])
        correct, confidence = (
            float(sums[name][number]) / count if count else None
            for name in ("bin_correct", "bin_confidence")
        )
        ends = (number / NUM_BINS, (number + 1) / NUM_BINS)
        bins.append(Bin(*ends, count, correct, confidence))
    return tuple(bins)


def class_scores(
    guesses: Guesses, class_names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Returns the score of each class that has an example, in the order of logits."""
    correct = guesses.label[guesses.label == guesses.predicted]
    counts, right = (
        np.bincount(labels, minlength=len(class_names))
        for labels in (guesses.label, correct)
    )
    return tuple(
        ClassScore(index, class_names[index], int(counts[index]), int(right[index]))
        for index in map(int, np.flatnonzero(counts))
    )


def confusions_of(guesses: Guesses) -> tuple[Confusion, ...]:
    """Returns the pairs of classes that were confused, the most frequent first.

    Of equally frequent ones, the first by the classes' logits. Pairs take less memory
    than the matrix, which for 20,000 classes would take 3 GB.
    """
    pairs = np.stack([guesses.label, guesses.predicted], axis=1)
    pairs = pairs[guesses.label != guesses.predicted]
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        Confusion(int(label), int(predicted), int(count))
        for (label, predicted), count in zip(found[order], counts[order], strict=True)
    )


def surest_mistakes(guesses: Guesses, count: int) -> tuple[Mistake, ...]:
    """Returns the mistakes with the highest probabilities; of equals, the first."""
    wrong = np.flatnonzero(guesses.label != guesses.predicted)
    order = np.argsort(-guesses.probability[wrong], kind="stable")[:count]
    return tuple(
        Mistake(
            index=int(guesses.index[place]),
            label=int(guesses.label[place]),
            predicted=int(guesses.predicted[place]),
            probability=float(guesses.probability[place]),
            label_probability=float(guesses.label_probability[place]),
        )
        for place in wrong[order]
    )
