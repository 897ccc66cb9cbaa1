"""Parts of a study: panels of variants, effects, charts and measurements."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cnn_jax import create_model
from cnn_jax.data import Dataset
from cnn_jax.report.words import listed
from cnn_jax.studies.metrics import METRICS

MakeModel = Callable[..., Any]
"""Takes `num_classes` and `dtype`, and returns a Linen module."""


def network(name: str, **fields: Any) -> MakeModel:
    """Returns what makes a registered network with some of its fields changed."""
    return functools.partial(create_model, name, **fields)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network with its recipe: what is trained once for each seed.

    Panels that name the same variant share its runs.

    Attributes:
      name: Its name in tables, which no other variant of the study has.
      model: What makes the network, such as `network("resnet20")`.
      changes: Fields of `TrainConfig` that differ from the study's recipe.
      share: The share of the study's training examples that it learns from, the same
        number of each class. The epochs grow with its inverse: every variant takes as
        many steps.
      series: The line that it belongs to in a `LineChart`.
      position: Where it stands on that line.
    """

    name: str
    model: MakeModel
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    share: float = 1.0
    series: str = ""
    position: float | None = None


@dataclasses.dataclass(frozen=True)
class Effect:
    """A claim about two variants that the runs can support or contradict.

    Attributes:
      claim: One clause without a full stop: "Without skip connections, 56 layers fit
        the training set worse than 20".
      variant: The variant that it is about.
      baseline: The one beside which it is held, seed by seed.
      metric: The key of what is compared, out of `METRICS`.
      expected: Whether the claim says that the variant's is higher or lower.
    """

    claim: str
    variant: str
    baseline: str
    metric: str
    expected: Literal["higher", "lower"]


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A metric of each series over the positions of its variants.

    Attributes:
      title: What it shows; no other chart of the study has it.
      metric: What is drawn, a key of `METRICS`.
      x_label: What the positions are.
      is_log: Whether the axis of the positions is logarithmic.
    """

    title: str
    metric: str
    x_label: str
    is_log: bool = False


@dataclasses.dataclass(frozen=True)
class ScatterChart:
    """A metric of each variant over one that no seed changes, on a logarithmic axis.

    Attributes:
      title: What it shows; no other chart of the study has it.
      metric: What is drawn, a key of `METRICS`.
      over: What it is drawn over: "parameters", "macs" or "activation_bytes".
    """

    title: str
    metric: str = "test_accuracy"
    over: str = "macs"


@dataclasses.dataclass(frozen=True)
class Size:
    """Number of examples, epochs and runs that a study takes.

    Attributes:
      train_per_class: Training examples of each class; 0 for all.
      test_per_class: Test examples of each class; 0 for all.
      epochs: Passes over the training examples.
      seeds: Runs of each variant.
    """

    train_per_class: int
    test_per_class: int
    epochs: int
    seeds: int


@dataclasses.dataclass(frozen=True)
class Context:
    """Data, runs and networks that a measurement can measure.

    Attributes:
      splits: The study's "train" and "test" splits.
      runs: The directory of each finished run of the panel, by variant and seed.
      models: The network of each variant of the panel, by its name.
      config: The configuration of each variant's first run.
      size: The number of examples, epochs and seeds.
      is_smoke: Whether it is only to be seen that everything runs.
    """

    splits: Mapping[str, Dataset]
    runs: Mapping[tuple[str, int], pathlib.Path]
    models: Mapping[str, Any]
    config: Mapping[str, Any]
    size: Size
    is_smoke: bool


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Something else that a panel measures, once.

    Attributes:
      name: Its name in results and files.
      measure: Measures it; returns what JSON can hold.
      show: Returns the blocks of the page that show it (see `cnn_jax.report.html`).
      sentences: Returns what it says, in sentences with their intervals.
      cost: About how many multiply-adds it takes, for the estimate of the time left.
      failures: Returns a sentence for each thing that is not as it has to be: the study
        then ends with status 1.
    """

    name: str
    measure: Callable[[Context], Mapping[str, Any]]
    show: Callable[[Mapping[str, Any]], Sequence[Any]]
    sentences: Callable[[Mapping[str, Any]], Sequence[str]] = lambda found: ()
    cost: float = 1e9
    failures: Callable[[Mapping[str, Any]], Sequence[str]] = lambda found: ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One question of a study, with all that answers it.

    Attributes:
      name: Its name on the command line and in results.
      title: The heading of its section.
      question: What is asked and why, in a paragraph.
      variants: What is trained; none where everything is measured.
      effects: The claims that are tested, in the order of the page.
      columns: The keys of the metrics in its table.
      charts: Its charts; learning curves are drawn of every panel that trains.
      measurements: What else is measured.
    """

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...] = ()
    effects: tuple[Effect, ...] = ()
    columns: tuple[str, ...] = ("test_accuracy", "train_loss", "parameters", "macs")
    charts: tuple[LineChart | ScatterChart, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        names = {variant.name for variant in self.variants}
        for effect in self.effects:
            unknown = {effect.variant, effect.baseline} - names
            if unknown:
                raise ValueError(
                    f"effects of {self.name!r}: got {listed(sorted(unknown))}, "
                    f"expected variants of the panel: {listed(sorted(names))}."
                )
        keys = {*self.columns, *(effect.metric for effect in self.effects)}
        keys |= {chart.metric for chart in self.charts}
        if unknown := keys - METRICS.keys():
            raise ValueError(
                f"metrics of {self.name!r}: got {listed(sorted(unknown))}, expected "
                f"some of {listed(list(METRICS))}."
            )

    def reduced(self) -> Panel:
        """Returns the panel with the two variants of its last effect alone."""
        if not self.effects:
            return self
        last = self.effects[-1]
        names = {last.variant, last.baseline}
        return dataclasses.replace(
            self,
            variants=tuple(each for each in self.variants if each.name in names),
            effects=(last,),
        )


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: its panels, its recipe and its sizes.

    Attributes:
      name: The name of its script and its directories.
      title: The heading of its page.
      panels: Its panels, in the order of the page.
      recipe: Fields of `TrainConfig` that all runs share.
      sizes: "smoke", "default", "results" and "full", and what each takes.
      is_of_data: Whether its results are of a data set; else no page names one.

    Raises:
      ValueError: If two panels, or two different variants, have one name.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    recipe: Mapping[str, Any]
    sizes: Mapping[str, Size]
    is_of_data: bool = True

    def __post_init__(self) -> None:
        names = [panel.name for panel in self.panels]
        if len(set(names)) != len(names):
            raise ValueError(f"panels: got {names}, expected names all different.")
        known: dict[str, Variant] = {}
        for panel in self.panels:
            for variant in panel.variants:
                if known.setdefault(variant.name, variant) is not variant:
                    raise ValueError(
                        f"variant {variant.name!r}: got two that differ, expected one "
                        "definition of a name."
                    )
