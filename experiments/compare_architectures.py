"""Architectures side by side: one recipe, several seeds, one report.

    python experiments/compare_architectures.py
    python experiments/compare_architectures.py --dataset cifar10 --data-dir DIR

Every network is trained under the same recipe, once for each seed. A part of the
training split is held out, the same for all; early stopping and the choice of the
best epoch go by it, and the test split decides nothing. The run directory gets
`report.html`, `results.json` and one directory for each run; `--resume` skips the runs
that are finished and continues the one that was interrupted.

The first command takes about three minutes on two CPU cores, CIFAR-10 with one epoch
and one seed 24 (docs/results.md); every finished run prints about how long the rest
will take.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import dataclasses
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tyro

from cnn_jax import create_model, sharding
from cnn_jax.analysis.summary import Summary, summarize
from cnn_jax.checkpoint import check_unchanged
from cnn_jax.checkpoint.lock import lock_new
from cnn_jax.data import Dataset, load_dataset
from cnn_jax.files import read_json, reading, write_text
from cnn_jax.report import environment, html, plots, study, table
from cnn_jax.report.progress import PlannedRun, RunProgress
from cnn_jax.report.run_page import write_run_page
from cnn_jax.report.statistics import Interval, accuracy_interval, student_interval
from cnn_jax.report.words import count, listed
from cnn_jax.training import TrainConfig
from cnn_jax.training.config import RESUME_MAY_CHANGE
from cnn_jax.training.run.build import build_run, compile_run
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.result import NonFiniteLossError

TITLE = "Architectures compared"

OVERHEAD_MACS = 10_000_000
"""Cost of a run beside its multiply-adds, for the estimate of the time left."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The networks compared, their data and their recipe."""

    models: tuple[str, ...] = (
        "lenet5",
        "vgg8_cifar",
        "efficientnet_cifar",
        "plain20",
        "resnet20",
    )
    """Names of the networks, out of `cnn-jax models`."""
    dataset: str = "digits"
    """`digits`, or the name of a prepared TFDS set."""
    data_dir: str | None = None
    """Directory of TFDS sets. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    image_size: int | None = None
    """Height and width to bring images to. Default: the dataset's own."""
    seeds: int = 3
    """Runs of each network, with the seeds 0, 1, ..."""
    epochs: int = 2
    """Passes over the training split, at most."""
    validation_fraction: float = 0.1
    """Share of the training split held out, stratified, for early stopping."""
    patience: int | None = 3
    """Epochs without gain in validation accuracy before a run stops."""

    batch_size: int = 32
    """Examples per step, over all devices."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """`sgd` decays weights through the gradient (coupled), `adamw` apart from it."""
    learning_rate: float = 0.003
    """The schedule's highest value."""
    momentum: float = 0.9
    """Of `sgd`; the first moment's decay of `adamw`."""
    nesterov: bool = True
    """Use Nesterov's momentum, which looks ahead."""
    weight_decay: float = 0.01
    """Coefficient of the weight decay."""
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "step"] = "one_cycle"
    """Shape of the learning rate over the run."""
    warmup_epochs: float = 0.0
    """Epochs of rising learning rate. For `one_cycle`, 0 means 30 % of the run."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets."""
    crop_padding: int = 2
    """Zeros around an image before a random crop back to its size."""
    flip: bool = False
    """Mirror images at random. Not for digits."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations; parameters, statistics and loss stay float32."""

    run_dir: str | None = None
    """Directory of the report and the runs. Default: a new directory below `runs`."""
    resume: bool = False
    """Continue the comparison in `run_dir`: finished runs are kept."""

    def validate(self) -> None:
        """Checks every field.

        Raises:
          ValueError: Saying what is wrong with which field.
        """
        if not self.models or len(set(self.models)) != len(self.models):
            raise ValueError(
                f"models: got {self.models}, expected one or more names, all different."
            )
        if self.seeds < 1:
            raise ValueError(f"seeds: got {self.seeds}, expected at least 1.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction: got {self.validation_fraction}, expected "
                "between 0 and 1: it is what chooses the best epoch."
            )
        if self.resume and self.run_dir is None:
            raise ValueError(
                "resume: got no run_dir, expected the directory of the comparison to "
                "continue (--run-dir)."
            )
        self.train_config(self.models[0], 0, pathlib.Path()).validate()
        sharding.check_batch_size(self.batch_size, sharding.make_mesh())

    def train_config(self, model: str, seed: int, run_dir: pathlib.Path) -> TrainConfig:
        """Returns the configuration of one run, in its own directory."""
        shared = {field.name for field in dataclasses.fields(TrainConfig)}
        shared &= {field.name for field in dataclasses.fields(self)}
        # The comparison holds out one validation split, and hands it to every run.
        shared -= {"run_dir", "resume", "validation_fraction"}
        directory = run_dir / "runs" / model / f"seed{seed}"
        return TrainConfig(
            **{name: getattr(self, name) for name in shared},
            model=model,
            seed=seed,
            run_dir=str(directory),
            resume=(directory / "config.json").exists(),
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run: its network, its seed, and what `fit` found."""

    model: str
    seed: int
    result: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything the report is written from."""

    config: Comparison
    splits: Mapping[str, Dataset]
    summaries: Mapping[str, Summary]
    runs: Sequence[Run]
    failures: Sequence[str]
    command: str
    environment: environment.Environment

    def of(self, model: str) -> list[Run]:
        """Returns the finished runs of one network."""
        return [run for run in self.runs if run.model == model]

    @property
    def finished(self) -> list[str]:
        """The networks with at least one finished run, in the order asked for."""
        return [model for model in self.config.models if self.of(model)]

    def accuracy(self, model: str) -> Interval:
        """Returns a network's test accuracy with its 95 % interval."""
        tests = [run.result["test"] for run in self.of(model)]
        return accuracy_interval(
            [test["accuracy"] for test in tests], tests[0]["num_examples"]
        )


# ------------------------------------------------------------------ training


def load_splits(config: Comparison) -> dict[str, Dataset]:
    """Reads the dataset and holds the validation split out of its training split."""
    train, test = (
        load_dataset(
            config.dataset,
            split,
            data_dir=config.data_dir,
            image_size=config.image_size,
        )
        for split in ("train", "test")
    )
    train, validation = train.split_off(config.validation_fraction)
    return {"train": train, "validation": validation, "test": test}


def train_all(
    config: Comparison,
    splits: Mapping[str, Dataset],
    summaries: Mapping[str, Summary],
    run_dir: pathlib.Path,
) -> tuple[list[Run], list[str]]:
    """Trains every network with every seed, or reads what an earlier start finished.

    Returns:
      The finished runs, and one sentence for each run whose loss was not finite.
    """
    runs, failures = [], []
    planned = [
        PlannedRun(f"{name}, seed {seed}", name, summaries[name].macs + OVERHEAD_MACS)
        for name in config.models
        for seed in range(config.seeds)
    ]
    with RunProgress(planned) as progress:

        def follow(line: Mapping[str, Any], state: object) -> None:
            if line["event"] == "epoch":
                progress.show(line["epoch"] / config.epochs)

        for name in config.models:
            model = create_model(
                name, num_classes=splits["train"].num_classes, dtype=config.dtype
            )
            compiled = None
            for seed in range(config.seeds):
                progress.begin()
                train_config = config.train_config(name, seed, run_dir)
                is_kept = _is_finished(train_config, splits)
                try:
                    if not is_kept:
                        if compiled is None:
                            mesh = sharding.make_mesh()
                            parts = build_run(model, train_config, splits, mesh)
                            compiled = compile_run(parts)
                            progress.compiled()
                        fit(
                            model,
                            splits["train"],
                            test=splits["test"],
                            config=train_config,
                            validation=splits["validation"],
                            progress=False,
                            callbacks=[follow],
                            compiled=compiled,
                        )
                except NonFiniteLossError as error:
                    failures.append(f"{name}, seed {seed}: {error}")
                    progress.end(f"failed at step {error.step}")
                    continue
                write_run_page(train_config.run_dir)
                run = Run(name, seed, _read(train_config, "result.json"))
                runs.append(run)
                accuracy = f"test accuracy {run.result['test']['accuracy']:.1%}"
                if run.result["stopped_early"]:
                    num_epochs = len(run.result["history"])
                    accuracy += f", stopped early after epoch {num_epochs}"
                progress.end(accuracy, is_kept=is_kept)
    return runs, failures


def _is_finished(config: TrainConfig, splits: Mapping[str, Dataset]) -> bool:
    """Returns whether a run directory holds the result of this very run.

    Raises:
      ResumeRefusedError: If it holds the result of another one.
    """
    if not (pathlib.Path(config.run_dir) / "result.json").exists():
        return False
    description = _read(config, "config.json")
    expected = {
        "config": json.loads(json.dumps(config.to_dict())),
        "dataset": {name: split.fingerprint for name, split in splits.items()},
    }
    for what, current in expected.items():
        with reading(config.run_dir, "the files of a run"):
            found = {name: description[what].get(name) for name in current}
        check_unchanged(
            what,
            found,
            current,
            may_change=RESUME_MAY_CHANGE,
            hint="--run-dir names it",
        )
    return True


def _read(config: TrainConfig, name: str) -> dict[str, Any]:
    return read_json(pathlib.Path(config.run_dir) / name)


# ------------------------------------------------------------------- results


def comparison_table(results: Results) -> table.Table:
    """Returns the table with one row for each network."""
    config, test = results.config, results.splits["test"]
    return table.Table(
        title=f"{config.dataset}: {count(len(config.models), 'network')} under one "
        "recipe",
        columns=_columns(results),
        rows=[_row(results, model) for model in config.models],
        notes=[
            study.interval_note(results.config.seeds),
            f"Test accuracy is that of the epoch with the best validation accuracy, on "
            f"{len(test):,} test examples that decided nothing. Bold: the best of a "
            "column.",
            *(f"Not finished: {failure}" for failure in results.failures),
        ],
    )


NOTES = {
    "test_accuracy": "On the test split.",
    "parameters": "Trained numbers, those of biases and normalisations included.",
    "macs": "Multiply-adds of one forward pass over one image of {shape}.",
    "step_seconds": "One training step of {batch} images: forward, backward, update. "
    "The median over a run, then over the runs.",
    "images_per_second": "Training images over training time; the median of the runs.",
    "train_seconds": "Wall time of a run's training steps, with logging and "
    "checkpoints, without compilation and evaluation; the mean of the runs.",
    "step_memory": "What the compiled training step needs on one device at its peak, "
    "as planned by the compiler: arguments (weights, optimizer state and the "
    "dataset), results and temporaries.",
}


def _columns(results: Results) -> list[table.Column]:
    shape = " x ".join(map(str, results.splits["train"].image_shape))
    columns = (
        table.Column("model", "Model"),
        table.Column("test_accuracy", "Accuracy", "%", ".1f", 100, "highest"),
        table.Column("parameters", "Params", "", ",d", 1, "lowest"),
        table.Column("macs", "MACs", "M", ",.1f", 1e-6, "lowest"),
        table.Column("step_seconds", "Step", "ms", ",.1f", 1e3, "lowest"),
        table.Column("images_per_second", "Images/s", "", ",.0f", 1, "highest"),
        table.Column("train_seconds", "Training", "s", ",.1f", 1, "lowest"),
        table.Column("step_memory", "Memory", "MiB", ",.0f", 2**-20, "lowest"),
    )
    return [
        dataclasses.replace(
            column,
            note=NOTES.get(column.key, "").format(
                shape=shape, batch=results.config.batch_size
            ),
        )
        for column in columns
    ]


def _row(results: Results, model: str) -> dict[str, Any]:
    runs = [run.result for run in results.of(model)]
    row = {
        "model": model,
        "parameters": results.summaries[model].parameters,
        "macs": results.summaries[model].macs,
    }
    if not runs:
        return row

    def collect(name: str) -> list[float]:
        return [run[name] for run in runs if run[name] is not None]

    return row | {
        "test_accuracy": results.accuracy(model),
        "step_seconds": _median(collect("step_seconds_median")),
        "images_per_second": _median(collect("images_per_second")),
        "train_seconds": statistics.fmean(collect("train_seconds")),
        "step_memory": runs[0]["peak_memory_bytes"] or None,
    }


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def run_table(results: Results) -> table.Table:
    """Returns the table with one row for each run."""
    columns = [
        table.Column("model", "Model"),
        table.Column("seed", "Seed", "", "d"),
        table.Column("epochs", "Epochs", "", "d"),
        table.Column("best_epoch", "Best epoch", "", "d"),
        table.Column("validation_accuracy", "Validation accuracy", "%", ".1f", 100),
        table.Column("test_accuracy", "Test accuracy", "%", ".1f", 100),
        table.Column("test_loss", "Test loss", "", ".4f"),
        table.Column("step_seconds", "Step", "ms", ",.1f", 1e3),
        table.Column("train_seconds", "Training", "s", ",.1f"),
        table.Column(
            "compile_seconds",
            "Compiling",
            "s",
            ",.1f",
            note="Once for all runs of a network that one start of the program trains.",
        ),
    ]
    rows = [
        {
            "model": run.model,
            "seed": run.seed,
            "epochs": len(run.result["history"]),
            "best_epoch": run.result["best_epoch"],
            "validation_accuracy": run.result["history"][run.result["best_epoch"] - 1][
                "validation_accuracy"
            ],
            "test_accuracy": run.result["test"]["accuracy"],
            "test_loss": run.result["test"]["loss"],
            "step_seconds": run.result["step_seconds_median"],
            "train_seconds": run.result["train_seconds"],
            "compile_seconds": run.result["compile_seconds"],
        }
        for run in results.runs
    ]
    return table.Table("Every run", columns, rows)


def summarize_results(results: Results) -> str:
    """Returns the outcome in one paragraph."""
    finished = results.finished
    if not finished:
        return "No run finished: every loss became NaN or infinite."
    config = results.config
    accuracies = {model: results.accuracy(model) for model in finished}
    best = max(finished, key=lambda model: accuracies[model].mean)
    column = _columns(results)[1]
    seeds = count(config.seeds, "seed")
    sentences = [
        f"On {config.dataset}, trained for up to {count(config.epochs, 'epoch')} with "
        f"{seeds}, {best} "
        + (
            f"was the most accurate of {len(finished)} networks: "
            if len(finished) > 1
            else "reached "
        )
        + f"{column.text(accuracies[best])} % on the test split."
    ]
    rivals = [
        model
        for model in finished
        if model != best and accuracies[model].high >= accuracies[best].low
    ]
    if rivals:
        theirs = "that" if len(rivals) == 1 else "those"
        sentences.append(
            f"Its 95 % interval overlaps with {theirs} of {listed(rivals)}, so this "
            "comparison does not tell them apart."
        )
    elif len(finished) > 1:
        sentences.append("No other network's 95 % interval reaches into its own.")
    macs = {model: results.summaries[model].macs for model in finished}
    smallest = min(finished, key=macs.get)
    if macs[smallest] < macs[best]:
        sentences.append(
            f"{smallest} needs the fewest multiply-adds, {macs[smallest] / 1e6:,.1f} M "
            f"against {macs[best] / 1e6:,.1f} M, and reached "
            f"{column.text(accuracies[smallest])} %."
        )
    if results.failures:
        sentences.append(f"{count(len(results.failures), 'run')} did not finish.")
    return " ".join(sentences)


# -------------------------------------------------------------------- report


def write_report(results: Results, run_dir: pathlib.Path) -> None:
    """Writes `results.json` and `report.html`."""
    main_table, details = comparison_table(results), run_table(results)
    summary = summarize_results(results)
    content = {
        "title": TITLE,
        "summary": summary,
        "command": results.command,
        "config": study.public(dataclasses.asdict(results.config)),
        "environment": results.environment,
        "dataset": {
            name: {"num_examples": len(split), "sha256": split.fingerprint}
            for name, split in results.splits.items()
        },
        "table": table.to_json(main_table),
        "runs": [
            {"model": run.model, "seed": run.seed, **study.public(run.result)}
            for run in results.runs
        ],
        "failures": list(results.failures),
    }
    study.write_json(run_dir / "results.json", content)
    sections = [html.Section("Results", [main_table])]
    if results.finished:
        sections += [
            html.Section("Learning curves", [_learning_curves(results)]),
            html.Section("What accuracy costs", [_trade_offs(results)]),
            html.Section("Every run", [html.Details("Run by run", [details])]),
        ]
    sections.append(_making(results))
    page = html.render_page(
        f"{TITLE} on {results.config.dataset}",
        summary,
        sections,
        kicker=f"cnn_jax, {results.environment.date[:10]}",
    )
    write_text(run_dir / "report.html", page)


def _learning_curves(results: Results) -> html.Charts:
    several = results.config.seeds > 1
    band = " with the 95 % band over the seeds" if several else ""
    caption = (
        f"Mean{band}, as far as every seed of a network trained." if several else ""
    )
    charts = []
    for key, title, label, scale, bounds in (
        ("validation_accuracy", "Validation accuracy", "accuracy, %", 100, (0, 1)),
        ("train_loss", "Training loss", "mean loss over the epoch", 1, (0, math.inf)),
    ):
        curves = [_curve(results, model, key) for model in results.finished]
        ends = "; ".join(
            f"{curve.label} {curve.values[-1].mean * scale:.3g}" for curve in curves
        )
        svg = plots.line_chart(
            curves,
            title=title,
            description=f"{title} by epoch{band}. Last values: {ends}.",
            x_label="epoch",
            y_label=label,
            scale=scale,
            bounds=bounds,
        )
        charts.append(html.Chart(svg, title, caption))
    return html.Charts(charts)


def _curve(results: Results, model: str, key: str) -> plots.Curve:
    histories = [run.result["history"] for run in results.of(model)]
    epochs = range(min(map(len, histories)))
    return plots.Curve(
        label=model,
        x=[epoch + 1 for epoch in epochs],
        values=[
            student_interval([history[epoch][key] for history in histories])
            for epoch in epochs
        ],
        style=results.config.models.index(model),
    )


def _trade_offs(results: Results) -> html.Charts:
    charts = []
    for title, label, measure in (
        ("Accuracy and size", "parameters", lambda summary: summary.parameters),
        ("Accuracy and work", "multiply-adds per image", lambda summary: summary.macs),
    ):
        points = [
            plots.Point(
                label=model,
                x=measure(results.summaries[model]),
                value=results.accuracy(model),
                style=results.config.models.index(model),
            )
            for model in results.finished
        ]
        svg = plots.scatter_chart(
            points,
            title=title,
            description=f"Test accuracy over {label}: "
            + "; ".join(
                f"{point.label} {point.value.mean:.1%} at {point.x:,}"
                for point in points
            )
            + ".",
            x_label=f"{label} (logarithmic)",
            y_label="test accuracy, %",
            scale=100,
            bounds=(0, 1),
        )
        charts.append(html.Chart(svg, title, "Bars: 95 % intervals, as in the table."))
    return html.Charts(charts)


def _making(results: Results) -> html.Section:
    config = results.config
    splits = ", ".join(
        f"{len(split):,} {name}" for name, split in results.splits.items()
    )
    return study.making(
        results.command,
        results.environment,
        {
            "Examples": splits,
            "Seeds": ", ".join(map(str, range(config.seeds))),
            "Recipe": study.recipe(config, "models"),
        },
    )


# ---------------------------------------------------------------------- main


def run(config: Comparison) -> Results:
    """Trains, writes the report, and returns what it says.

    Raises:
      ValueError: If the configuration is invalid; before anything is trained.
      FileExistsError: If the run directory holds a comparison and is not resumed.
      DirectoryInUseError: If another process writes into it.
      FileNotFoundError: If the dataset is not there.
    """
    config.validate()
    run_dir = pathlib.Path(config.run_dir)
    if (run_dir / "runs").exists() and not config.resume:
        raise FileExistsError(
            f"{run_dir} already holds a comparison. Continue it with --resume, or "
            "choose another directory (--run-dir)."
        )
    for model in config.models:
        create_model(model)
    splits = load_splits(config)
    train = splits["train"]
    summaries = {
        model: summarize(
            create_model(model, num_classes=train.num_classes), train.image_shape
        )
        for model in config.models
    }
    with lock_new(run_dir):
        study.write_json(run_dir / "config.json", dataclasses.asdict(config))
        runs, failures = train_all(config, splits, summaries, run_dir)
        results = Results(
            config=config,
            splits=splits,
            summaries=summaries,
            runs=runs,
            failures=failures,
            command=environment.command_line(),
            environment=environment.describe_environment(),
        )
        write_report(results, run_dir)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison that the command line describes; returns the exit status."""
    config = program.parsed(
        lambda: tyro.cli(Comparison, args=arguments, description=__doc__), arguments
    )

    def show(config: Comparison) -> study.Shown:
        results = run(config)
        return study.Shown(
            [comparison_table(results)], summarize_results(results), results.failures
        )

    return study.conduct(
        config, show, name="compare_architectures", subject=config.dataset
    )


if __name__ == "__main__":
    sys.exit(main())
