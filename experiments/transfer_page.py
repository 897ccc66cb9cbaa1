"""The page of a transfer study: tables, the crossover, and a look inside."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from transfer_findings import (
    APPROACHES,
    SAME_COST,
    Findings,
    Size,
    Treatment,
    percent,
    rule_of_thumb,
    what_pretraining_adds,
    what_to_take,
)
from transfer_treatments import Backbone

from cnn_jax.analysis.features import first_layer_filters, nearest_neighbours
from cnn_jax.analysis.overlay import overlay
from cnn_jax.analysis.saliency import grad_cam
from cnn_jax.data import Dataset
from cnn_jax.files import write_text
from cnn_jax.report import environment, html, images, plots, study, table
from cnn_jax.report.words import count, listed
from cnn_jax.transfer.probe import extract_features

TITLE = "Transfer: which approach when"

NUM_PICTURES = 6
NUM_NEIGHBOURS = 5


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything the page is written from.

    Attributes:
      config: The study's configuration.
      source: What the first task was, in words.
      backbone: The network that knows it.
      train: The second task's training split.
      test: Its test split.
      findings: The runs.
      models: "pretrained" and every treatment -> variables, of seed 0 and all the
        examples of the last size.
      command: What started the study.
      environment: Where it ran.
    """

    config: Any
    source: str
    backbone: Backbone
    train: Dataset
    test: Dataset
    findings: Findings
    models: Mapping[str | Treatment, Any]
    command: str
    environment: environment.Environment


def write_report(results: Results, run_dir: pathlib.Path) -> study.Shown:
    """Writes `results.json` and `report.html`; returns what the terminal shows."""
    findings, config = results.findings, results.config
    thumb = rule_of_thumb(findings)
    tables = [accuracy_table(results), advice_table(results), cost_table(results)]
    neighbours = Neighbours(results)
    content = {
        "title": TITLE,
        "rule_of_thumb": thumb,
        "command": results.command,
        "config": _public_config(config),
        "environment": results.environment,
        "source": results.source,
        "dataset": {
            split.split: {"num_examples": len(split), "sha256": split.fingerprint}
            for split in (results.train, results.test)
        },
        "tables": [table.to_json(each) for each in tables],
        "neighbours": neighbours.shares,
        "runs": [
            {**dataclasses.asdict(run), "treatment": run.treatment._asdict()}
            for run in findings.runs
        ],
    }
    study.write_json(run_dir / "results.json", content)
    accuracies, advice, costs = tables
    sections = [
        html.Section(
            "Rule of thumb", [*(html.Paragraph(each) for each in thumb), advice]
        ),
        html.Section("Accuracy by labelled examples", [crossover(results), accuracies]),
        html.Section("Batch norm: train, adapt or freeze", [policies(results)]),
        html.Section("What it costs", [trade_offs(results), costs]),
        html.Section(
            "Looking inside",
            [
                html.Paragraph(
                    f"The networks of seed 0 with {findings.sizes[-1].label} examples "
                    "per class, each approach under its batch norm policy of the "
                    "highest mean."
                ),
                html.Charts(cam_pictures(results)),
                html.Charts(filter_pictures(results)),
                html.Charts(neighbours.pictures()),
            ],
        ),
        html.Section("Every run", [html.Details("Run by run", [run_table(results)])]),
        _making(results),
    ]
    page = html.render_page(
        f"{TITLE}, on {config.dataset}",
        summarize(results),
        sections,
        kicker=f"cnn_jax, {results.environment.date[:10]}",
    )
    write_text(run_dir / "report.html", page)
    return study.Shown(tables, " ".join(thumb))


def _public_config(config: Any) -> dict[str, Any]:
    fields = study.public(dataclasses.asdict(config))
    if config.weights is not None:
        fields["weights"] = environment.without_private_paths(config.weights)
    return fields


def summarize(results: Results) -> str:
    """Returns what was done and its outcome, in one paragraph."""
    findings, config = results.findings, results.config
    sizes = listed([size.label for size in findings.sizes])
    outcome = [*what_to_take(findings), *what_pretraining_adds(findings)]
    return (
        f"{config.model} had learned {results.source} and was brought to "
        f"{results.train.name} ({results.train.num_classes} classes) with {sizes} "
        f"labelled examples per class, in {count(len(findings.treatments), 'way')}, "
        f"with {count(config.seeds, 'seed')}. {' '.join(outcome)}"
    )


# ---------------------------------------------------------------------------- tables


def _treatments_by_size(findings, measure, *form):
    """Returns columns and rows: a row for each treatment, a column for each size.

    Args:
      findings: Whose treatments and sizes.
      measure: Of a treatment and a size, what stands there.
      *form: How it is shown: unit and what follows it in `table.Column`.
    """
    columns = [
        table.Column("treatment", "Approach, batch norm"),
        *(table.Column(_key(size), size.label, *form) for size in findings.sizes),
    ]
    rows = [
        {"treatment": treatment.label}
        | {_key(size): measure(treatment, size) for size in findings.sizes}
        for treatment in findings.treatments
    ]
    return columns, rows


def accuracy_table(results: Results) -> table.Table:
    """Returns a row for each treatment, a column for each size."""
    findings = results.findings
    columns, rows = _treatments_by_size(
        findings, findings.accuracy, "%", ".1f", 100, "highest"
    )
    return table.Table(
        "Test accuracy by examples per class",
        columns,
        rows,
        [
            study.interval_note(results.config.seeds),
            f"On {len(results.test):,} test examples, which decided nothing in a run. "
            "Learning rates are the configuration's, the same for every size. Bold: "
            "the best of a column.",
        ],
    )


def advice_table(results: Results) -> table.Table:
    """Returns a row for each size: what was best, and what costs least for as much."""
    findings = results.findings
    rows = []
    for size in findings.sizes:
        advice = findings.advice(size)
        rows.append(
            {
                "size": size.label,
                "best": advice.best.label,
                "best_accuracy": findings.accuracy(advice.best, size),
                "rivals": len(advice.rivals),
                "chosen": advice.chosen.label,
                "chosen_accuracy": findings.accuracy(advice.chosen, size),
                "seconds": findings.seconds(advice.chosen, size),
            }
        )
    others = len(findings.treatments) - 1
    return table.Table(
        "What to take",
        [
            table.Column("size", "Per class"),
            table.Column("best", "Most accurate"),
            table.Column("best_accuracy", "Accuracy", "%", ".1f", 100),
            table.Column("rivals", "Not told apart", f"of {others}", "d"),
            table.Column("chosen", "Take"),
            table.Column("chosen_accuracy", "Its accuracy", "%", ".1f", 100),
            table.Column("seconds", "Its cost", "s", ".1f"),
        ],
        rows,
        [
            "Not told apart: treatments whose difference from the most accurate one, "
            + (
                "seed by seed, has a 95 % interval with 0 in it (Student's t, not "
                "corrected for the number of comparisons)."
                if results.config.seeds > 1
                else "with one seed, is within Wilson's 95 % intervals."
            ),
            "Take: of these and the most accurate one, the cheapest; costs within a "
            f"factor of {SAME_COST} count as equal: the mean over all sizes decides.",
        ],
    )


def cost_table(results: Results) -> table.Table:
    """Returns a row for each treatment, the seconds for each size."""
    findings = results.findings
    columns, rows = _treatments_by_size(
        findings, findings.seconds, "s", ".2f", 1, "lowest"
    )
    steps = count(results.config.steps, "step")
    return table.Table(
        "Seconds by examples per class",
        columns,
        rows,
        [
            f"Median of the seeds, without compilation and evaluation. What trains the "
            f"network takes {steps} of {results.config.batch_size} images at every "
            "size; a probe takes one pass over the examples and a fit.",
        ],
    )


def run_table(results: Results) -> table.Table:
    """Returns a row for each run."""
    labels = {size.asked: size.label for size in results.findings.sizes}
    return table.Table(
        "Every run",
        [
            table.Column("treatment", "Approach, batch norm"),
            table.Column("size", "Per class"),
            table.Column("seed", "Seed", "", "d"),
            table.Column("accuracy", "Test accuracy", "%", ".1f", 100),
            table.Column("seconds", "Cost", "s", ".2f"),
        ],
        [
            {
                "treatment": run.treatment.label,
                "size": labels[run.examples_per_class],
                "seed": run.seed,
                "accuracy": run.accuracy,
                "seconds": run.seconds,
            }
            for run in results.findings.runs
        ],
    )


def _key(size: Size) -> str:
    return f"per_class_{size.asked or 'all'}"


# ---------------------------------------------------------------------------- charts


def crossover(results: Results) -> html.Charts:
    """Returns accuracy against examples, and what is gained over random weights."""
    findings = results.findings
    best = [findings.best_policy(approach) for approach in findings.approaches]
    named = "; ".join(each.label for each in best)
    charts = [
        _size_chart(
            results,
            "Accuracy by examples per class",
            "test accuracy, %",
            {
                APPROACHES[each.approach]: [
                    findings.accuracy(each, size) for size in findings.sizes
                ]
                for each in best
            },
            f"Each approach under the batch norm policy of its highest mean over the "
            f"sizes: {named}. Bands: 95 % intervals, as in the table.",
            (0, 1),
        )
    ]
    scratch = findings.best_policy("scratch")
    if scratch is not None and len(best) > 1:
        charts.append(
            _size_chart(
                results,
                "Gain over training from scratch",
                "points of test accuracy",
                {
                    APPROACHES[each.approach]: [
                        findings.difference(each, scratch, size)
                        for size in findings.sizes
                    ]
                    for each in best
                    if each != scratch
                },
                "Differences seed by seed, on the same examples, with their 95 % band. "
                "Where a band has 0 in it, the seeds do not tell the two apart.",
                (-1, 1),
            )
        )
    return html.Charts(charts)


def policies(results: Results) -> html.Charts:
    """Returns a chart for each approach with more than one policy."""
    findings = results.findings
    charts = []
    for approach in findings.approaches:
        treatments = [each for each in findings.treatments if each.approach == approach]
        if len(treatments) < 2:
            continue
        name = APPROACHES[approach].capitalize()
        charts.append(
            _size_chart(
                results,
                f"{name} by batch norm policy",
                "test accuracy, %",
                {
                    each.batch_norm: [
                        findings.accuracy(each, size) for size in findings.sizes
                    ]
                    for each in treatments
                },
                NOTES[approach == "feature_extraction"],
                (0, 1),
            )
        )
    return html.Charts(charts)


NOTES = (
    "Train: batches are normalised by their own statistics, scales and biases learn. "
    "Adapt: the same, but scales and biases stay. Frozen: the source's statistics "
    "normalise, nothing of batch norm moves.",
    "Adapt: the running statistics are those of the examples before features are "
    "computed. Frozen: they are the source's.",
)

STYLES = {
    **{name: place for place, name in enumerate(APPROACHES.values())},
    "train": 4,
    "adapt": 5,
    "frozen": 6,
}
"""One colour for each name, whichever chart it stands in."""


def _size_chart(results, title, label, lines, caption, bounds) -> html.Chart:
    sizes = results.findings.sizes
    curves = [
        plots.Curve(name, [size.per_class for size in sizes], values, STYLES[name])
        for name, values in lines.items()
    ]
    numbers = "; ".join(
        f"{curve.label} "
        + ", ".join(f"{100 * value.mean:.1f}" for value in curve.values)
        for curve in curves
    )
    svg = plots.line_chart(
        curves,
        title=title,
        description=f"{title}, at {listed([size.label for size in sizes])}: {numbers}.",
        x_label="labelled examples per class (logarithmic)",
        y_label=label,
        scale=100,
        bounds=bounds,
        ticks={
            size.per_class: str(size.asked) if size.asked else "all" for size in sizes
        },
    )
    return html.Chart(svg, title, caption)


def trade_offs(results: Results) -> html.Charts:
    """Returns accuracy against seconds with the fewest and with the most examples."""
    findings = results.findings
    charts = []
    for size in dict.fromkeys((findings.sizes[0], findings.sizes[-1])):
        title = f"Accuracy and cost at {size.label} per class"
        dots = [
            plots.Point(
                treatment.label,
                findings.seconds(treatment, size),
                findings.accuracy(treatment, size),
                place,
            )
            for place, treatment in enumerate(findings.treatments)
        ]
        svg = plots.scatter_chart(
            dots,
            title=title,
            description=f"{title}: "
            + "; ".join(
                f"{dot.label} {percent(dot.value.mean)} in {dot.x:.2f} s"
                for dot in dots
            )
            + ".",
            x_label="time of learning (logarithmic)",
            x_unit="s",
            y_label="test accuracy, %",
            scale=100,
            bounds=(0, 1),
        )
        charts.append(html.Chart(svg, title, "Bars: 95 % intervals, as in the table."))
    return html.Charts(charts)


# -------------------------------------------------------------------- looking inside


def _networks(results: Results) -> dict[str, Any]:
    """Returns the variables to look into, by what a reader calls them."""
    findings = results.findings
    treatments = [findings.best_policy(approach) for approach in findings.approaches]
    return {each.label: results.models[each] for each in treatments}


def _chosen(results: Results) -> np.ndarray:
    """Returns the first test example of each of the first classes, in class order."""
    labels = results.test.labels
    classes = [label for label in range(results.test.num_classes) if label in labels]
    first = [int(np.argmax(labels == label)) for label in classes]
    return np.resize(first, NUM_PICTURES)


def cam_pictures(results: Results) -> list[html.Picture]:
    """Returns Grad-CAM of six images, a row for each network."""
    backbone, chosen = results.backbone, _chosen(results)
    pixels = results.test.images[chosen]
    inputs = backbone.normalized(pixels)
    large = _enlarged(pixels, -(-112 // pixels.shape[1]))
    truth = [results.test.class_names[label] for label in results.test.labels[chosen]]
    pictures = []
    for name, variables in _networks(results).items():
        logits = backbone.model.apply(variables, inputs, train=False)
        maps = np.asarray(grad_cam(backbone.model, variables, inputs))
        said = [results.test.class_names[int(each)] for each in jnp.argmax(logits, -1)]
        sheet = images.contact_sheet(
            overlay(large, maps, opacity=0.5), columns=NUM_PICTURES
        )
        pictures.append(
            html.Picture(
                images.data_uri(sheet),
                f"Grad-CAM, {name}",
                f"Where the last {maps.shape[1]} x {maps.shape[2]} feature map speaks "
                f"for the class that is said. Images of {', '.join(truth)}; said: "
                f"{', '.join(said)}.",
            )
        )
    return pictures


def filter_pictures(results: Results) -> list[html.Picture]:
    """Returns the first layer's filters before and after."""
    networks = {"pretrained": results.models["pretrained"]}
    networks |= {
        name: variables
        for name, variables in _networks(results).items()
        if not name.startswith(APPROACHES["feature_extraction"])
    }
    pictures = []
    for name, variables in networks.items():
        shares = np.asarray(first_layer_filters(variables))
        pixels = np.round(255 * shares).astype(np.uint8)
        scale = -(-56 // pixels.shape[1])
        sheet = images.contact_sheet(pixels, columns=8, scale=scale)
        pictures.append(
            html.Picture(
                images.data_uri(sheet),
                f"First layer's filters, {name}",
                f"{len(pixels)} filters of {pixels.shape[1]} x {pixels.shape[2]}, each "
                "scaled by its largest entry; middle gray is 0.",
            )
        )
    return pictures


class Neighbours:
    """Finds the training images nearest to test images, in pixels and in features.

    Attributes:
      shares: Of each space, the mean share of the five nearest that are of the query's
        class, over the whole test split.
    """

    def __init__(self, results: Results):
        self._results = results
        self._found = {
            name: np.asarray(nearest_neighbours(train, test, NUM_NEIGHBOURS)[0])
            for name, (train, test) in _spaces(results).items()
        }
        train, test = results.train.labels, results.test.labels
        self.shares = {
            name: float(np.mean(train[indices] == test[:, None]))
            for name, indices in self._found.items()
        }

    def pictures(self) -> list[html.Picture]:
        """Returns a sheet for each space: a query and its neighbours in each row."""
        train, test = self._results.train, self._results.test
        chosen = _chosen(self._results)
        scale = -(-48 // train.images.shape[1])
        pictures = []
        for name, indices in self._found.items():
            cells = []
            for query in chosen:
                cells.append(_enlarged(test.images[query : query + 1], scale)[0])
                for index in indices[query]:
                    cell = _enlarged(train.images[index : index + 1], scale)[0]
                    is_right = train.labels[index] == test.labels[query]
                    cells.append(cell if is_right else _framed(cell))
            sheet = images.contact_sheet(cells, columns=1 + NUM_NEIGHBOURS)
            pictures.append(
                html.Picture(
                    images.data_uri(sheet),
                    f"Nearest by {name}",
                    f"Left: a test image, then the {NUM_NEIGHBOURS} training images of "
                    f"the most similar direction; red: another class. Over all test "
                    f"images {percent(self.shares[name])} are of the same class.",
                )
            )
        return pictures


def _spaces(results: Results) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns the vectors of both splits in every space."""
    backbone, splits = results.backbone, (results.train, results.test)
    model = backbone.model.clone(num_classes=0)
    spaces = {
        "pixels": tuple(
            jnp.asarray(split.images.reshape(len(split), -1), jnp.float32)
            for split in splits
        )
    }
    networks = {"pretrained": results.models["pretrained"]}
    networks |= {
        name: variables
        for name, variables in _networks(results).items()
        if not name.startswith(APPROACHES["feature_extraction"])
    }
    for name, variables in networks.items():
        spaces[f"features, {name}"] = tuple(
            jnp.asarray(
                extract_features(model, variables, backbone.batches(split.images))
            )
            for split in splits
        )
    return spaces


def _enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Returns images `(n, h, w, c)` in colour, every pixel so many high and wide."""
    pixels = np.repeat(np.repeat(pixels, scale, axis=1), scale, axis=2)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def _framed(picture: np.ndarray, width: int = 3) -> np.ndarray:
    """Returns a picture with a red frame."""
    framed = picture.copy()
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        framed[edge] = (214, 39, 40)
    return framed


# ------------------------------------------------------------------- how it was made


def _making(results: Results) -> html.Section:
    config = results.config
    sizes = [f"{len(split):,} {split.split}" for split in (results.train, results.test)]
    return study.making(
        results.command,
        results.environment,
        {
            "First task": results.source,
            "Second task": f"{results.train.name}: {', '.join(sizes)}",
            "Seeds": ", ".join(map(str, range(config.seeds))),
            "Recipe": study.recipe(
                config, "weights", "smoke", "approaches", "batch_norm", "seeds"
            ),
        },
    )
