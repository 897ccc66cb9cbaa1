"""The page and the summary of a study, from its results alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.report import html, plots, table
from cnn_jax.report import study as files
from cnn_jax.report.environment import Environment
from cnn_jax.report.statistics import Interval, student_interval
from cnn_jax.report.words import count, listed
from cnn_jax.studies.effects import Judgement, judge
from cnn_jax.studies.metrics import METRICS, OF_THE_NETWORK
from cnn_jax.studies.panel import LineChart, Panel, ScatterChart, Study

Results = Mapping[str, Any]
"""`results.json`: "title", "command", "config", "size", "environment", "dataset",
"runs" (a record each, see `training.train_job`) and "measurements" (panel -> name ->
what was measured)."""

CHANCE = "A network that always names one class has an accuracy of {chance:.0%}."

SMOKE = "It is a trial of whether everything runs: its numbers mean nothing."


class Found:
    """The results of one panel.

    Args:
      panel: The panel.
      results: The study's results.
    """

    def __init__(self, panel: Panel, results: Results):
        names = [variant.name for variant in panel.variants]
        self.panel: Panel = panel
        self.results: Results = results
        self.runs: list[Mapping[str, Any]] = [
            run for run in results["runs"] if run["variant"] in names
        ]
        measured: Mapping[str, Any] = results["measurements"]
        self.measurements: Mapping[str, Any] = measured.get(panel.name, {})

    @property
    def judgements(self) -> list[Judgement]:
        """Judgements of the panel's effects."""
        return [judge(effect, self.runs) for effect in self.panel.effects]

    @property
    def sentences(self) -> list[str]:
        """Sentences on what the panel found, each with its interval."""
        said = [judgement.sentence for judgement in self.judgements]
        for measurement in self.panel.measurements:
            if measurement.name in self.measurements:
                said += measurement.sentences(self.measurements[measurement.name])
        return said

    def of(self, variant: str, metric: str) -> list[float]:
        """Returns a metric of a variant's runs, of those that have one."""
        return [
            run[metric]
            for run in self.runs
            if run["variant"] == variant and run.get(metric) is not None
        ]

    def value(self, variant: str, metric: str) -> Interval | float | None:
        """Returns what a table shows of a metric of a variant."""
        values = self.of(variant, metric)
        if not values:
            return None
        if metric in OF_THE_NETWORK:
            return values[0]
        if metric == "step_seconds":
            return statistics.median(values)
        return student_interval(values)

    @property
    def finished(self) -> list[str]:
        """The variants with a finished run, in the panel's order."""
        names = [variant.name for variant in self.panel.variants]
        return [name for name in names if self.of(name, "test_accuracy")]


def panel_table(found: Found) -> table.Table | None:
    """Returns the table with a row for each variant; None if nothing is trained."""
    panel = found.panel
    if not panel.variants:
        return None
    failed = [run for run in found.runs if "failed_at_step" in run]
    notes = [files.interval_note(found.results["size"]["seeds"])]
    if len(panel.effects) > 1:
        notes.append(
            "Intervals are not corrected for the number of claims: of twenty that are "
            "wrong, one is expected to be seen, or its opposite."
        )
    notes += [
        f"{run['variant']}, seed {run['seed']}: the loss was not finite at step "
        f"{run['failed_at_step']}; the run is in no mean."
        for run in failed
    ]
    return table.Table(
        panel.title,
        [
            table.Column("variant", "Variant"),
            *(METRICS[key].column for key in panel.columns),
        ],
        [
            {"variant": variant.name}
            | {key: found.value(variant.name, key) for key in panel.columns}
            for variant in panel.variants
        ],
        notes,
    )


def _learning_curves(found: Found) -> list[html.Chart]:
    charts = []
    for key, name, label, scale in (
        ("train_loss", "Training loss", "mean loss over the epoch", 1.0),
        ("test_accuracy", "Test accuracy", "test accuracy, %", 100.0),
    ):
        curves = []
        for style, variant in enumerate(found.finished):
            histories = [
                [epoch[key] for epoch in run["history"]]
                for run in found.runs
                if run["variant"] == variant and "history" in run
            ]
            epochs = range(min(map(len, histories)))
            values = [
                student_interval([history[epoch] for history in histories])
                for epoch in epochs
            ]
            curves.append(
                plots.Curve(variant, [epoch + 1 for epoch in epochs], values, style)
            )
        title = f"{name} by epoch: {found.panel.title}"
        ends = "; ".join(
            f"{curve.label} {curve.values[-1].mean * scale:.3g}" for curve in curves
        )
        svg = plots.line_chart(
            curves,
            title=title,
            description=f"{title}. Last values: {ends}.",
            x_label="epoch",
            y_label=label,
            scale=scale,
            bounds=METRICS[key].bounds,
        )
        charts.append(html.Chart(svg, f"{name} by epoch", ""))
    return charts


def _draw_lines(chart: LineChart, found: Found) -> html.Chart:
    metric = METRICS[chart.metric]
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for variant in found.panel.variants:
        values = found.of(variant.name, chart.metric)
        if variant.position is not None and values:
            lines.setdefault(variant.series, []).append(
                (variant.position, student_interval(values))
            )
    curves = []
    for style, (name, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        means = [value for _, value in points]
        curves.append(plots.Curve(name, [place for place, _ in points], means, style))
    places = sorted({place for points in lines.values() for place, _ in points})
    svg = plots.line_chart(
        curves,
        title=chart.title,
        description=f"{metric.name} over {chart.x_label}, for {listed(list(lines))}; "
        "the numbers are in the table.",
        x_label=chart.x_label,
        y_label=metric.axis,
        scale=metric.column.scale,
        bounds=metric.bounds,
        ticks={place: f"{place:g}" for place in places} if chart.is_log else None,
    )
    return html.Chart(svg, chart.title, "Means with 95 % intervals over the seeds.")


def _draw_scatter(chart: ScatterChart, found: Found) -> html.Chart:
    metric, over = METRICS[chart.metric], METRICS[chart.over]
    points = [
        plots.Point(
            name,
            found.of(name, chart.over)[0],
            student_interval(found.of(name, chart.metric)),
            style,
        )
        for style, name in enumerate(found.finished)
    ]
    svg = plots.scatter_chart(
        points,
        title=chart.title,
        description=f"{metric.name} over {over.name}; the numbers are in the table.",
        x_label=f"{over.name} (logarithmic)",
        y_label=metric.axis,
        scale=metric.column.scale,
        bounds=metric.bounds,
    )
    return html.Chart(svg, chart.title, "Bars: 95 % intervals over the seeds.")


def _section(found: Found) -> html.Section:
    panel = found.panel
    blocks: list[Any] = [html.Paragraph(panel.question)]
    blocks.append(html.Bullets(found.sentences))
    if (shown := panel_table(found)) is not None:
        blocks.append(shown)
    if found.finished:
        charts = [
            _draw_lines(chart, found)
            if isinstance(chart, LineChart)
            else _draw_scatter(chart, found)
            for chart in panel.charts
        ]
        if charts:
            blocks.append(html.Charts(charts))
        blocks.append(html.Details("Learning curves", [_curves(found)]))
    for measurement in panel.measurements:
        if measurement.name in found.measurements:
            blocks += measurement.show(found.measurements[measurement.name])
    return html.Section(panel.title, blocks)


def _curves(found: Found) -> html.Charts:
    return html.Charts(_learning_curves(found))


def run_table(results: Results) -> table.Table:
    """Returns the table with a row for each run."""
    keys = (
        *("test_accuracy", "train_accuracy", "train_loss", "test_loss"),
        *("step_seconds", "train_seconds", "epochs_run"),
    )
    return table.Table(
        "Every run",
        [
            table.Column("variant", "Variant"),
            table.Column("seed", "Seed", "", "d"),
            *(METRICS[key].column for key in keys),
        ],
        [
            {key: run.get(key) for key in ("variant", "seed", *keys)}
            for run in results["runs"]
        ],
    )


def panels_of(study: Study, results: Results) -> list[Found]:
    """Returns what was found of each panel that was run."""
    is_smoke = results["config"]["smoke"]
    return [
        Found(panel.reduced() if is_smoke else panel, results)
        for panel in study.panels
        if panel.name in results["panels"]
    ]


def _heading(study: Study, results: Results) -> str:
    data = f" on {results['dataset']['name']}" if study.is_of_data else ""
    return f"{results['title']}{data}"


def scale_of(study: Study, results: Results) -> str:
    """Returns on how much of which data the study was made, in a sentence."""
    size, splits = results["size"], results["dataset"]
    name, seeds = splits["name"], count(size["seeds"], "seed")
    train, test = (splits[split]["num_examples"] for split in ("train", "test"))
    if results["runs"]:
        chance = CHANCE.format(chance=1 / splits["num_classes"])
        text = (
            f"Trained on {train:,} examples of {name} for "
            f"{count(size['epochs'], 'epoch')} with {seeds}, tested on {test:,}. "
            f"{chance}"
        )
    elif study.is_of_data:
        text = f"What is random is drawn with {seeds}, from {name} or from noise."
    else:
        text = "Its numbers are of the machine: all arrays are noise."
    return f"{text} {SMOKE}" if results["config"]["smoke"] else text


def render(study: Study, results: Results, environment: Environment) -> str:
    """Returns the page of a study."""
    panels = panels_of(study, results)
    sections = [_section(found) for found in panels]
    if results["runs"]:
        details = html.Details("Run by run", [run_table(results)])
        sections.append(html.Section("Every run", [details]))
    recipe = "; ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in results["recipe"].items()
    )
    facts = {"Scale": scale_of(study, results)} | ({"Recipe": recipe} if recipe else {})
    sections.append(files.making(results["command"], environment, facts))
    return html.render_page(
        _heading(study, results),
        scale_of(study, results),
        sections,
        kicker=f"cnn_jax, {environment.date[:10]}",
    )


def summary_in_markdown(study: Study, results: Results, page: str) -> str:
    """Returns the summary that is committed beside the page.

    Args:
      study: The study.
      results: Its results.
      page: The page's file name, which the summary links.
    """
    environment = results["environment"]
    machine = f"{environment['cpu']}, {environment['num_cores']} cores"
    versions = environment["versions"]
    parts = [
        f"# {_heading(study, results)}",
        f"{scale_of(study, results)} Measured on {environment['date'][:10]}, "
        f"{machine}, jax {versions['jax']}. [The page]({page}) has the charts.",
        f"```sh\n{results['command']}\n```",
    ]
    for found in panels_of(study, results):
        parts += [f"## {found.panel.title}", found.panel.question]
        parts += ["\n".join(f"- {sentence}" for sentence in found.sentences)]
        shown = panel_table(found)
        parts += [] if shown is None else [table.to_markdown(shown)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def tables_in_json(study: Study, results: Results) -> dict[str, Any]:
    """Returns each panel's table and sentences, as `results.json` holds them."""
    return {
        found.panel.name: {
            "sentences": found.sentences,
            "table": None
            if (shown := panel_table(found)) is None
            else table.to_json(shown),
        }
        for found in panels_of(study, results)
    }


def failures(study: Study, results: Results) -> Sequence[str]:
    """Returns a sentence for each failed run, and each measurement that failed."""
    failed = [
        f"{run['variant']}, seed {run['seed']}: the loss was not finite at step "
        f"{run['failed_at_step']}."
        for run in results["runs"]
        if "failed_at_step" in run
    ]
    for found in panels_of(study, results):
        for measurement in found.panel.measurements:
            failed += measurement.failures(found.measurements[measurement.name])
    return failed
