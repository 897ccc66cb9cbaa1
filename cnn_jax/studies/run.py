"""The whole of a study: from its command line to its page."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax import program
from cnn_jax.checkpoint import check_unchanged
from cnn_jax.checkpoint.lock import lock_new
from cnn_jax.data import Dataset, load_dataset
from cnn_jax.files import json_value, read_json, reading, write_text
from cnn_jax.report import environment
from cnn_jax.report import study as files
from cnn_jax.report.progress import PlannedRun, RunProgress
from cnn_jax.studies import page
from cnn_jax.studies.config import StudyConfig
from cnn_jax.studies.panel import Context, Panel, Size, Study
from cnn_jax.studies.training import Job, Record, make_job, measured, train_job

RESULTS, PAGE, SUMMARY = "results.json", "report.html", "summary.md"


def main(
    study: Study,
    arguments: Sequence[str] | None = None,
    *,
    description: str | None = None,
) -> int:
    """Runs the study that a command line describes; returns the exit status.

    Args:
      study: The study.
      arguments: The command line; None for the process's own.
      description: What `--help` says of it.
    """
    import tyro

    config = program.parsed(
        lambda: tyro.cli(StudyConfig, args=arguments, description=description),
        arguments,
    )

    def run(config: StudyConfig) -> files.Shown:
        results = run_study(study, config)
        panels = page.panels_of(study, results)
        shown = [page.panel_table(found) for found in panels]
        return files.Shown(
            [table for table in shown if table is not None],
            "\n".join(text for found in panels for text in found.sentences),
            page.failures(study, results),
        )

    return files.conduct(config, run, name=study.name, subject=config.dataset)


def run_study(study: Study, config: StudyConfig) -> Record:
    """Trains and measures, writes the page, and returns the results.

    Args:
      study: The study.
      config: Its panels, data, size and directory, which has to be given.

    Returns:
      What `results.json` holds.

    Raises:
      ValueError: If the configuration is invalid; before anything is trained.
      FileExistsError: If the run directory holds a study and is not resumed.
      DirectoryInUseError: If another process writes into it.
      FileNotFoundError: If the dataset is not there.
    """
    config.validate(study)
    if config.run_dir is None:
        raise ValueError("run_dir: got None, expected the study's directory.")
    run_dir = pathlib.Path(config.run_dir)
    size, panels = config.size(study), config.panels(study)
    recipe = dict(study.recipe)
    if config.batch_size is not None:
        recipe["batch_size"] = config.batch_size
    splits = _load_splits(config, size)
    variants = {variant.name: variant for panel in panels for variant in panel.variants}
    jobs = {
        name: make_job(variant, size, recipe, splits, run_dir)
        for name, variant in variants.items()
    }
    with lock_new(run_dir):
        command = _begin(study, config, run_dir)
        runs, measurements = _run_all(config, panels, jobs, splits, size, run_dir)
        where = environment.describe_environment()
        results: Record = json_value(
            {
                "title": study.title,
                "command": command,
                "config": files.public(dataclasses.asdict(config)),
                "panels": [panel.name for panel in panels],
                "recipe": recipe,
                "size": size,
                "environment": where,
                "dataset": _described(splits),
                "runs": runs,
                "measurements": measurements,
            }
        )
        results["found"] = page.tables_in_json(study, results)
        files.write_json(run_dir / RESULTS, results)
        write_text(run_dir / PAGE, page.render(study, results, where))
        summary = page.summary_in_markdown(study, results, PAGE)
        write_text(run_dir / SUMMARY, summary)
    return results


def _load_splits(config: StudyConfig, size: Size) -> dict[str, Dataset]:
    counts = {"train": size.train_per_class, "test": size.test_per_class}
    splits = {}
    for name, per_class in counts.items():
        split = load_dataset(
            config.dataset, name, data_dir=config.data_dir, image_size=config.image_size
        )
        splits[name] = split.take_per_class(per_class) if per_class else split
    return splits


def _described(splits: Mapping[str, Dataset]) -> dict[str, Any]:
    train = splits["train"]
    return {
        "name": train.name,
        "num_classes": train.num_classes,
        "image_shape": train.image_shape,
        **{
            name: {"num_examples": len(split), "sha256": split.fingerprint}
            for name, split in splits.items()
        },
    }


def _begin(study: Study, config: StudyConfig, run_dir: pathlib.Path) -> str:
    """Makes the run directory, or checks that it is this study's.

    Returns:
      The command that began the study.
    """
    path = run_dir / "config.json"
    # Panels may be added to a study that is continued.
    fields = files.public(dataclasses.asdict(config))
    fields = {k: v for k, v in fields.items() if k not in ("panel", "resume")}
    ours = json.loads(json.dumps({"study": study.name} | fields))
    if not path.exists():
        command = environment.command_line()
        files.write_json(path, {"command": command, "config": ours})
        return command
    if not config.resume:
        raise FileExistsError(
            f"{run_dir} already holds a study. Continue it with --resume, or choose "
            "another directory (--run-dir)."
        )
    begun = read_json(path)
    with reading(path, "the configuration of a study"):
        saved = {name: begun["config"].get(name) for name in ours}
        command = str(begun["command"])
    check_unchanged("config", saved, ours, hint="--run-dir names it")
    return command


def _run_all(
    config: StudyConfig,
    panels: Sequence[Panel],
    jobs: Mapping[str, Job],
    splits: Mapping[str, Dataset],
    size: Size,
    run_dir: pathlib.Path,
) -> tuple[list[Record], dict[str, Record]]:
    """Trains all variants, then measures what each panel measures beside."""
    planned = [run for job in jobs.values() for run in job.planned()]
    planned += [
        PlannedRun(
            f"{panel.name}: {measurement.name}", measurement.name, measurement.cost
        )
        for panel in panels
        for measurement in panel.measurements
    ]
    runs: list[Record] = []
    measurements: dict[str, Record] = {}
    with RunProgress(planned) as progress:
        for job in jobs.values():
            runs += train_job(job, progress)
        for panel in panels:
            context = _context(panel, jobs, runs, splits, size, is_smoke=config.smoke)
            for measurement in panel.measurements:
                progress.begin()
                path = (
                    run_dir / "measurements" / panel.name / f"{measurement.name}.json"
                )

                def measure(measurement=measurement, context=context):
                    return measurement.measure(context)

                found, is_kept = measured(path, measure)
                measurements.setdefault(panel.name, {})[measurement.name] = found
                progress.end("measured", is_kept=is_kept)
    return runs, measurements


def _context(
    panel: Panel,
    jobs: Mapping[str, Job],
    records: Sequence[Record],
    splits: Mapping[str, Dataset],
    size: Size,
    *,
    is_smoke: bool,
) -> Context:
    finished = {
        (record["variant"], record["seed"])
        for record in records
        if "failed_at_step" not in record
    }
    own = [jobs[variant.name] for variant in panel.variants]
    return Context(
        splits=splits,
        runs={
            (job.variant.name, config.seed): pathlib.Path(str(config.run_dir))
            for job in own
            for config in job.configs
            if (job.variant.name, config.seed) in finished
        },
        models={job.variant.name: job.model for job in own},
        config={job.variant.name: job.configs[0] for job in own},
        size=size,
        is_smoke=is_smoke,
    )
