"""The first layer that one way of computing a step gets wrong.

The reference is float64, on the twins, op by op. How far a sound result may be from it
is measured on the reference itself: it is computed again with every result of a layer,
and its gradient, rounded `ROUNDINGS` times as coarsely as the dtype rounds, and what
that moves each array by, in the Euclidean norm, is its tolerance. So the tolerance
knows how a network amplifies rounding, and that rounding now and then moves a value
across the kink of a ReLU. The gradient of a parameter is a sum over images and places,
which is rounded at each term: it is allowed more, by the root of how many those are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from cnn_jax.doctor.numerics.steps import (
    Computed,
    Way,
    compute,
    initial,
    reference_device,
)
from cnn_jax.doctor.numerics.taps import Noise

ROUNDINGS = 128
"""The size of the drawn rounding, as a multiple of the dtype's."""

NUM_DRAWS = 2
"""The number of times that it is drawn."""

REFERENCE = Way("twins", False, "float64")

WAYS = (
    *(Way("ours", True, "float32", False), Way("twins", True, "float32", False)),
    *(Way("ours", True, "float32"), Way("twins", True, "float32")),
    *(Way("ours", False, "float32"), Way("twins", False, "float32")),
    *(Way("ours", True, "float64"), Way("twins", True, "float64")),
    Way("ours", False, "float64"),
)
"""All that is compared with the reference, in the order of the report."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first array that differs by more than rounding explains.

    Attributes:
      layer: The layer that computed it: its path in the network, and the kernel.
      array: `"output"`, `"input"`, `"gradient of x"`, ...
      error: The distance from the reference, relative to its size.
      tolerance: The largest that passes, likewise.
    """

    layer: str
    array: str
    error: float
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One way of computing a step, against the reference.

    Attributes:
      way: How it was computed.
      num_arrays: How many arrays were compared.
      worst: The largest error, as a share of its tolerance.
      difference: The first that differs, in the order of execution; None if none does.
    """

    way: str
    num_arrays: int
    worst: float
    difference: Difference | None


def check_numerics(
    model: Callable[[Any], nn.Module],
    image_shape: Sequence[int],
    *,
    batch_size: int = 4,
    seed: int = 0,
    ways: Sequence[Way] = WAYS,
    each: Callable[[str], None] = lambda text: None,
) -> list[Comparison]:
    """Computes a training step in every way and compares it with the reference.

    Dropout and its relatives are left out. The functions of `cnn_jax.kernels` are
    replaced meanwhile, for all threads.

    Args:
      model: Returns the network for a dtype, of its parameters and its computation.
      image_shape: `(height, width, channels)`.
      batch_size: How many images.
      seed: Of the images, labels and parameters.
      ways: What to compare.
      each: Is told what is computed next.

    Returns:
      A comparison for each way.

    Raises:
      ValueError: If the network's layers depend on the dtype, or the reference would
        be computed on a CPU that JAX may not use.
    """
    reference = Reference(model, image_shape, batch_size, seed, each)
    found = []
    for number, way in enumerate(ways, start=1):
        each(f"{number} of {len(ways)}: {way}")
        found.append(reference.compare(way))
    return found


class Reference:
    """A training step in float64, and how far from it rounding leads."""

    def __init__(
        self,
        model: Callable[[Any], nn.Module],
        image_shape: Sequence[int],
        batch_size: int,
        seed: int,
        each: Callable[[str], None],
    ):
        """Computes it; the arguments are those of `check_numerics`."""
        reference_device()  # before any work
        self._model = model
        each("drawing a batch")
        shape = (batch_size, *image_shape)
        self._batch = initial(model(np.dtype("float32")), shape, seed)
        each(f"reference: {REFERENCE}")
        self._computed = compute(model, self._batch, REFERENCE)
        self._scales = _Scales(self._computed)
        for draw in range(NUM_DRAWS):
            each(f"tolerance {draw + 1} of {NUM_DRAWS}: float64 with drawn rounding")
            noise = Noise(ROUNDINGS * float(np.finfo(np.float32).eps), draw)
            self._scales.widen(compute(model, self._batch, REFERENCE, noise))

    def compare(self, way: Way) -> Comparison:
        """Computes the step in a way and compares it."""
        found = compute(self._model, self._batch, way)
        return _compare(way, found, self._computed, self._scales)


def first_of(comparisons: Sequence[Comparison]) -> Comparison | None:
    """Returns the first comparison that found a difference; None if none did.

    One whose layers were recorded comes first: it says which layer it is.
    """
    found = [each for each in comparisons if each.difference is not None]
    return min(found, key=lambda each: each.way.endswith("unrecorded"), default=None)


class _Scales:
    """The tolerance of each array, in float32, as a distance."""

    def __init__(self, reference: Computed):
        self._reference = reference
        self.values = [0.0] * len(reference.values)
        self.gradients = [0.0] * len(reference.gradients)
        self.parameters = dict.fromkeys(reference.parameters, 0.0)
        self.loss = 0.0

    def widen(self, moved: Computed) -> None:
        of = self._reference
        self.values = list(map(_wider, self.values, moved.values, of.values))
        self.gradients = list(
            map(_wider, self.gradients, moved.gradients, of.gradients)
        )
        self.parameters = {
            path: _wider(before, moved.parameters[path], of.parameters[path])
            for path, before in self.parameters.items()
        }
        self.loss = _wider(self.loss, moved.loss, of.loss)


def _wider(before: float, moved: np.ndarray, reference: np.ndarray) -> float:
    return max(before, _norm(moved - reference))


@dataclasses.dataclass(frozen=True)
class _Pair:
    layer: str
    array: str
    value: np.ndarray
    reference: np.ndarray
    scale: float
    growth: float = 1.0

    def measured(self, shrink: float) -> Difference:
        """Returns the error and the tolerance, whether it is above it or not."""
        size = _norm(self.reference)
        floor = ROUNDINGS * float(np.finfo(np.float32).eps) * size
        tolerance = shrink * self.growth * max(self.scale, floor)
        is_same = self.value.shape == self.reference.shape
        error = _norm(self.value - self.reference) if is_same else math.inf
        unit = size or tolerance or 1.0
        return Difference(self.layer, self.array, error / unit, tolerance / unit)


def _compare(
    way: Way, found: Computed, reference: Computed, scales: _Scales
) -> Comparison:
    resolution = float(np.finfo(way.dtype).eps / np.finfo(np.float32).eps)
    measured = [
        pair.measured(resolution) for pair in _pairs(way, found, reference, scales)
    ]
    wrong = [each for each in measured if not each.error <= each.tolerance]
    return Comparison(
        str(way),
        len(measured),
        max(_share(each) for each in measured),
        wrong[0] if wrong else None,
    )


def _share(measured: Difference) -> float:
    if measured.error == 0.0:
        return 0.0
    if not measured.tolerance:
        return math.inf
    share = measured.error / measured.tolerance
    return math.inf if math.isnan(share) else share


def _pairs(
    way: Way, found: Computed, reference: Computed, scales: _Scales
) -> Iterator[_Pair]:
    """Yields what is compared, in the order in which a step computes it."""
    if way.is_recorded and not _same_places(found, reference):
        raise ValueError(
            "model: got a network that calls other layers in float32 or on the twins, "
            "expected one whose layers do not depend on that."
        )
    if way.is_recorded:
        numbers = [n for n, place in enumerate(reference.places) if place.has_value]
        for index, number in enumerate(numbers):
            place = reference.places[number]
            yield _Pair(
                place.layer,
                "output" if place.role == "output" else "input",
                found.values[index],
                reference.values[index],
                scales.values[index],
            )
    yield _Pair("the model", "loss", found.loss, reference.loss, scales.loss)
    if way.is_recorded:
        for number in _backward(reference):
            place = reference.places[number]
            yield _Pair(
                place.layer,
                f"gradient of {'its ' * (place.role == 'output')}{place.role}",
                found.gradients[number],
                reference.gradients[number],
                scales.gradients[number],
                1.0
                if place.role in ("output", "x", "logits")
                else _growth(reference, place.layer.partition(" (")[0]),
            )
    for path in _last_first(reference):
        layer, _, name = path.rpartition("/")
        yield _Pair(
            layer or "the model",
            f"gradient of {name}",
            found.parameters[path],
            reference.parameters[path],
            scales.parameters[path],
            _growth(reference, layer),
        )


def _same_places(found: Computed, reference: Computed) -> bool:
    return [(p.layer, p.role, p.shape) for p in found.places] == [
        (p.layer, p.role, p.shape) for p in reference.places
    ]


def _growth(reference: Computed, layer: str) -> float:
    """Returns how much more a sum over a layer's images and places is rounded."""
    counts = [
        math.prod(place.shape[:-1])
        for place in reference.places
        if place.role == "output" and place.layer.partition(" (")[0] == layer
    ]
    return max(1.0, math.sqrt(max(counts, default=1)) / 8)


def _backward(reference: Computed) -> Iterator[int]:
    """Yields the places in the order of a backward pass: results before arguments."""
    return reversed(range(len(reference.places)))


def _last_first(reference: Computed) -> list[str]:
    """Returns the parameters' paths, those of the last layer first."""
    order = {
        place.layer.partition(" (")[0]: number
        for number, place in enumerate(reference.places)
    }
    return sorted(
        reference.parameters,
        key=lambda path: -order.get(path.rpartition("/")[0], -1),
    )


def _norm(array: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(np.asarray(array, np.float64).ravel()))
