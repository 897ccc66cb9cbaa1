"""Scores of a network on a split as blocks of a page, from their JSON form.

`cnn-jax evaluate` writes a page of its own out of them, and a training run's page has
them of its test split.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.report import html, plots
from cnn_jax.report.statistics import Interval, wilson_interval
from cnn_jax.report.table import Column, Table, table_of
from cnn_jax.report.words import count

MAX_GRID = 20
"""The most classes that confusions are shown of as a matrix."""

MAX_BARS = 20
"""The most classes whose accuracy is drawn."""

MAX_PAIRS = 20
"""The most pairs of classes that a table of confusions has."""

MAX_ROWS = 1_000
"""The most classes that the table of classes has."""

NO_CHART = (
    "The charts need matplotlib, which was not installed when this page was written: "
    "pip install 'cnn_jax[report]', then write it again."
)

Record = Mapping[str, Any]
"""The JSON form of `cnn_jax.evaluation.Scores`."""

SCORE_COLUMNS = (
    Column("measure", "Measure"),
    Column("value", "Value"),
    Column("interval", "95 % interval"),
    Column("published", "Published"),
)


def score_table(scores: Record, published: Mapping[str, Any] | None = None) -> Table:
    """Returns accuracies, loss and calibration error, one a row.

    Args:
      scores: The scores.
      published: `{"top1", "source"}` of an accuracy to show beside; None for none.
    """
    accuracy, top5 = scores["accuracy"], scores["top5_accuracy"]
    rows = [_accuracy_row("Top-1 accuracy", accuracy)]
    if published is not None:
        rows[0]["published"] = f"{published['top1']:.2%}"
    if top5 is not None:
        rows.append(_accuracy_row("Top-5 accuracy", top5))
    loss, gap = scores["loss"], scores["calibration_error"]
    rows += [
        {"measure": "Loss", "value": _number(loss, ".4f")},
        {"measure": "Calibration error", "value": _number(gap, ".2%")},
    ]
    notes = [
        f"{scores['num_correct']:,} of {count(scores['num_examples'], 'example')} "
        "right. The interval is Wilson's, of the drawing of the examples; the expected "
        f"calibration error is over {len(scores['bins'])} equal-width bins of "
        "confidence (Guo et al. 2017)."
    ]
    if published is not None:
        notes.append(f"Published: {published['source']}.")
        classes = len(scores["classes"])
        if classes < len(scores["class_names"]):
            notes.append(
                f"That is over all {len(scores['class_names']):,} classes; these data "
                f"have examples of {classes:,}."
            )
    return table_of("Scores", SCORE_COLUMNS, rows, notes=notes)


def score_blocks(scores: Record, *, of: str = "") -> list[html.Section]:
    """Returns the sections that show where a network is right and where not.

    Args:
      scores: The scores.
      of: Ends the headings, for a page that is about more: `" on the test split"`.
    """
    return [
        html.Section(f"Calibration and classes{of}", _calibration_and_classes(scores)),
        html.Section(f"Confusions{of}", _confusions(scores)),
        html.Section(f"Surest mistakes{of}", _mistakes(scores)),
    ]


# ----------------------------------------------------------- calibration and classes

_CLASS_COLUMNS = (
    Column("name", "Class"),
    Column("num_examples", "Examples", "", ",d"),
    Column("accuracy", "Accuracy", "%", ".1f", 100),
)


def _calibration_and_classes(scores: Record) -> list[Any]:
    rows = _class_rows(scores)
    table = class_table(scores, MAX_ROWS)
    details = html.Details(table.title, [table])
    if importlib.util.find_spec("matplotlib") is None:
        return [html.Paragraph(NO_CHART), details]
    charts = [_reliability_chart(scores), _class_chart(rows)]
    drawn = [chart for chart in charts if chart is not None]
    return [html.Charts(drawn), details]


def _reliability_chart(scores: Record) -> html.Chart | None:
    bars = [
        plots.Bar(entry["low"], entry["high"], entry["accuracy"], entry["num_examples"])
        for entry in scores["bins"]
        if entry["accuracy"] is not None
    ]
    if not bars:  # no confidence is a finite number
        return None
    title = "Accuracy by confidence"
    shown = "; ".join(
        f"{bar.low:.2f} to {bar.high:.2f}: {bar.height:.3f}" for bar in bars
    )
    svg = plots.reliability_chart(
        bars,
        title=title,
        description=f"{title}. {shown}.",
        x_label="confidence, %",
        y_label="accuracy, %",
    )
    caption = (
        "Each bar is the accuracy on the examples whose confidence, the probability of "
        "the predicted class, is in the bin; the fuller its colour, the more examples. "
        "Bars that end below the dashed line mean that the network is too sure."
    )
    return html.Chart(svg, title, caption)


def class_table(scores: Record, most: int) -> Table:
    """Returns the classes with the lowest accuracies, at most so many rows."""
    found = _class_rows(scores)
    title = "Accuracy by class, lowest first"
    if most < len(found):
        title += f": {most} of {len(found):,}"
    notes = ["The intervals are Wilson's, 95 %, of each class's examples."]
    return Table(title, _CLASS_COLUMNS, found[:most], notes)


def _class_rows(scores: Record) -> list[dict[str, Any]]:
    found = [
        {
            "name": entry["name"],
            "num_examples": entry["num_examples"],
            "accuracy": wilson_interval(
                entry["num_correct"] / entry["num_examples"], entry["num_examples"]
            ),
        }
        for entry in scores["classes"]
    ]
    return sorted(found, key=lambda entry: entry["accuracy"].mean)


def _class_chart(found: Sequence[Mapping[str, Any]]) -> html.Chart:
    """Draws the classes with the lowest accuracies, which come first."""
    drawn = found[:MAX_BARS]
    title = "Accuracy by class"
    caption = "With Wilson's 95 % intervals."
    if len(drawn) < len(found):
        title = f"The {len(drawn)} classes with the lowest accuracy"
        caption += f" All {len(found):,} classes are in the table below."
    svg = plots.bar_chart(
        [(entry["name"], entry["accuracy"]) for entry in drawn],
        title=title,
        description=f"Lowest: {drawn[0]['name']}, {drawn[0]['accuracy'].mean:.1%}; "
        f"highest of these: {drawn[-1]['name']}, {drawn[-1]['accuracy'].mean:.1%}.",
        x_label="accuracy, %",
        scale=100,
        limits=(0, 100),
    )
    return html.Chart(svg, title, caption)


# ------------------------------------------------------------------------ confusions

_PAIR_COLUMNS = (
    Column("label", "Class"),
    Column("predicted", "Predicted as"),
    Column("num_examples", "Examples", "", ",d"),
    Column("share", "Of the class", "%", ".1f", 100),
)


def _confusions(scores: Record) -> list[Any]:
    names, pairs = scores["class_names"], scores["confusions"]
    if not pairs:
        return [html.Paragraph("No example of one class was taken for another.")]
    shown = {entry["index"] for entry in scores["classes"]}
    if len(names) <= MAX_GRID:
        shown = set(range(len(names)))
    if len(shown) <= MAX_GRID:
        return [_confusion_grid(scores, sorted(shown))]
    return [pair_table(scores, MAX_PAIRS)]


def pair_table(scores: Record, most: int) -> Table:
    """Returns the most frequent confusions, at most so many rows."""
    names, pairs = scores["class_names"], scores["confusions"]
    sizes = {entry["index"]: entry["num_examples"] for entry in scores["classes"]}
    rows = [
        {
            "label": names[pair["label"]],
            "predicted": names[pair["predicted"]],
            "num_examples": pair["num_examples"],
            "share": pair["num_examples"] / sizes[pair["label"]],
        }
        for pair in pairs[:most]
    ]
    title = "The most frequent confusions" if len(pairs) > len(rows) else "Confusions"
    return Table(title, _PAIR_COLUMNS, rows)


def _confusion_grid(scores: Record, shown: Sequence[int]) -> html.Grid:
    """Returns the matrix of some classes, with a column for all others."""
    names = scores["class_names"]
    place = {index: number for number, index in enumerate(shown)}
    has_others = any(pair["predicted"] not in place for pair in scores["confusions"])
    counts = [[0] * (len(shown) + has_others) for _ in shown]
    for entry in scores["classes"]:
        number = place[entry["index"]]
        counts[number][number] = entry["num_correct"]
    for pair in scores["confusions"]:
        column = place.get(pair["predicted"], len(shown))
        counts[place[pair["label"]]][column] += pair["num_examples"]
    chosen = [names[index] for index in shown]
    return html.Grid(
        "Confusion matrix",
        rows=chosen,
        columns=[*chosen, *(["another class"] if has_others else [])],
        counts=counts,
        note="A row for each class of the examples, a column for each predicted one.",
    )


# -------------------------------------------------------------------------- mistakes

_MISTAKE_COLUMNS = (
    Column("index", "Example", "", "d"),
    Column("label", "Class"),
    Column("predicted", "Predicted as"),
    Column("probability", "Probability", "%", ".1f", 100),
    Column("label_probability", "of its class", "%", ".1f", 100),
)


def mistake_table(scores: Record) -> Table:
    """Returns the surest mistakes, one a row."""
    names = scores["class_names"]
    rows = [
        {
            **{column.key: entry[column.key] for column in _MISTAKE_COLUMNS},
            "label": names[entry["label"]],
            "predicted": names[entry["predicted"]],
        }
        for entry in scores["mistakes"]
    ]
    return Table("Surest mistakes", _MISTAKE_COLUMNS, rows)


def _mistakes(scores: Record) -> list[Any]:
    if not scores["mistakes"]:
        return [html.Paragraph("There are none to show.")]
    names = scores["class_names"]
    pictures = [
        html.Picture(
            entry["picture"],
            names[entry["label"]],
            f"taken for {names[entry['predicted']]}, {_number(entry['probability'])}; "
            f"own class {_number(entry['label_probability'])}; example "
            f"{entry['index']:,}",
        )
        for entry in scores["mistakes"]
        if entry.get("picture")
    ]
    if not pictures:
        return [mistake_table(scores)]
    said = "Each under its own class, as the network saw it; the surest first."
    return [html.Paragraph(said), html.Pictures(pictures)]


# ----------------------------------------------------------------------------- texts


def _accuracy_row(measure: str, interval: Mapping[str, Any]) -> dict[str, Any]:
    found = Interval(**interval)
    return {
        "measure": measure,
        "value": f"{found.mean:.2%}",
        "interval": f"{100 * found.low:.2f} - {found.high:.2%}",
    }


def _number(value: float | None, form: str = ".1%") -> str:
    return "-" if value is None else format(value, form)
