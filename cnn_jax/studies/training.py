"""Trains every variant of a study with every seed, and keeps what is finished."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax import sharding
from cnn_jax.analysis.summary import Summary, summarize
from cnn_jax.checkpoint import check_unchanged
from cnn_jax.data import Dataset
from cnn_jax.evaluation.of_run import score_test
from cnn_jax.files import read_json, reading, write_text
from cnn_jax.report import study as files
from cnn_jax.report.progress import PlannedRun, RunProgress
from cnn_jax.report.run_page import write_run_page
from cnn_jax.studies.panel import Size, Variant
from cnn_jax.training import TrainConfig
from cnn_jax.training.config import RESUME_MAY_CHANGE
from cnn_jax.training.run.build import build_run, compile_run
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import image_format
from cnn_jax.training.run.result import FitResult, NonFiniteLossError

OVERHEAD_MACS = 10_000_000
"""Cost of an example beside its multiply-adds, for the estimate of the time left."""

HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""Fields that are kept of each epoch."""

RECORD = "study.json"
"""The file of a finished run with what the study keeps of it."""

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """All runs of one variant.

    Attributes:
      variant: The variant.
      model: Its network.
      splits: "train", "test" and, where the recipe holds one out, "validation": the
        same for every seed.
      summary: Its counts.
      configs: The configuration of each seed's run.
    """

    variant: Variant
    model: Any
    splits: Mapping[str, Dataset]
    summary: Summary
    configs: Sequence[TrainConfig]

    @property
    def cost(self) -> float:
        """Multiply-adds of a run's forward passes, about."""
        examples = len(self.splits["train"]) * self.configs[0].epochs
        return (self.summary.macs + OVERHEAD_MACS) * examples

    def planned(self) -> list[PlannedRun]:
        """Returns its runs, for the estimate of the time left."""
        name = self.variant.name
        return [
            PlannedRun(f"{name}, seed {config.seed}", name, self.cost)
            for config in self.configs
        ]


def make_job(
    variant: Variant,
    size: Size,
    recipe: Mapping[str, Any],
    splits: Mapping[str, Dataset],
    run_dir: pathlib.Path,
) -> Job:
    """Returns the runs of a variant, checked before anything is trained.

    Raises:
      ValueError: If a field of the recipe or of the variant is invalid.
    """
    changes: dict[str, Any] = {"epochs": round(size.epochs / variant.share)}
    changes |= {**recipe, **variant.changes}
    held_out = changes.pop("validation_fraction", 0.0)
    own = {"train": _share(splits["train"], variant.share), "test": splits["test"]}
    if held_out:
        own["train"], own["validation"] = own["train"].split_off(held_out)
    train, dtype = own["train"], changes.get("dtype", "float32")
    model = variant.model(num_classes=train.num_classes, dtype=dtype)
    slug = re.sub("[^a-z0-9.]+", "-", variant.name.lower()).strip("-")
    configs = []
    for seed in range(size.seeds):
        directory = run_dir / "runs" / slug / f"seed{seed}"
        config = TrainConfig(
            **{"model": variant.name} | changes,
            seed=seed,
            run_dir=str(directory),
            resume=(directory / "config.json").exists(),
        )
        # Of its own split: the configuration would hold out another for each seed.
        check = {"validation_fraction": held_out, "resume": False}
        dataclasses.replace(config, **check).validate()
        configs.append(config)
    sharding.check_batch_size(configs[0].batch_size, sharding.make_mesh())
    if len(train) < configs[0].batch_size:
        raise ValueError(
            f"batch_size of {variant.name!r}: got {configs[0].batch_size}, expected at "
            f"most the {len(train)} examples that it learns from (--train-per-class)."
        )
    return Job(variant, model, own, summarize(model, train.image_shape), configs)


def _share(train: Dataset, share: float) -> Dataset:
    if share == 1:
        return train
    fewest = int(np.bincount(train.labels, minlength=train.num_classes).min())
    return train.take_per_class(max(1, round(share * fewest)))


def train_job(job: Job, progress: RunProgress) -> list[Record]:
    """Trains a variant with every seed, or reads what an earlier start finished.

    Returns:
      A record for each run: "variant", "seed", "history" and the values of `METRICS`;
      of a run whose loss was not finite "failed_at_step" in place of the metrics.
    """
    compiled, records = None, []
    for config in job.configs:
        progress.begin()
        record = _finished(job, config)
        is_kept = record is not None
        if record is None:
            if compiled is None:
                compiled = _compile(job, config)
                progress.compiled()
            record = _train(job, config, compiled, progress)
            path = pathlib.Path(str(config.run_dir)) / RECORD
            files.write_json(path, record)
        records.append(record)
        progress.end(_outcome(record), is_kept=is_kept)
    return records


def _outcome(record: Record) -> str:
    if "failed_at_step" in record:
        return f"loss not finite at step {record['failed_at_step']}"
    return f"test accuracy {record['test_accuracy']:.1%}"


def _compile(job: Job, config: TrainConfig) -> CompiledRun:
    return compile_run(build_run(job.model, config, job.splits, sharding.make_mesh()))


def _train(
    job: Job, config: TrainConfig, compiled: CompiledRun, progress: RunProgress
) -> Record:
    def follow(line: Mapping[str, Any], state: object) -> None:
        if line["event"] == "epoch":
            progress.show(line["epoch"] / config.epochs)

    record: Record = {
        "variant": job.variant.name,
        "seed": config.seed,
        "train_examples": len(job.splits["train"]),
    }
    try:
        result = fit(
            job.model,
            job.splits["train"],
            test=job.splits["test"],
            validation=job.splits.get("validation"),
            config=config,
            progress=False,
            callbacks=[follow],
            compiled=compiled,
        )
    except NonFiniteLossError as error:
        return record | {"failed_at_step": error.step}
    write_run_page(str(config.run_dir))
    return record | _metrics(job, config, result)


def _metrics(job: Job, config: TrainConfig, result: FitResult) -> Record:
    """Returns the values of `METRICS`, and the history."""
    assert result.test is not None  # every study has a test split
    # The training examples, evaluated as the test split is.
    split, test = job.splits["train"], result.test
    images = image_format(config, split)
    train = score_test(job.model, result.best_variables, split, images, config)
    step = result.step_seconds_median
    return {
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "test_calibration_error": test["calibration_error"],
        "train_accuracy": train.accuracy.mean,
        "train_loss": train.loss,
        "gap": train.accuracy.mean - test["accuracy"],
        "parameters": job.summary.parameters,
        "macs": job.summary.macs,
        "activation_bytes": job.summary.activation_bytes,
        "step_seconds": step if math.isfinite(step) else None,
        "train_seconds": result.train_seconds,
        "epochs_run": len(result.history),
        "best_epoch": result.best_epoch,
        "history": [
            {name: epoch[name] for name in HISTORY if name in epoch}
            for epoch in result.history
        ],
    }


def _finished(job: Job, config: TrainConfig) -> Record | None:
    """Returns the record of a finished run; None if it is not finished.

    Raises:
      ResumeRefusedError: If the directory holds another run.
    """
    directory = pathlib.Path(str(config.run_dir))
    if not (directory / RECORD).exists():
        return None
    description = read_json(directory / "config.json")
    expected = {
        "config": json.loads(json.dumps(config.to_dict())),
        "dataset": {name: split.fingerprint for name, split in job.splits.items()},
    }
    for what, current in expected.items():
        with reading(directory, "the files of a run"):
            found = {name: description[what].get(name) for name in current}
        check_unchanged(
            what,
            found,
            current,
            may_change=(*RESUME_MAY_CHANGE, "train_split", "test_split", "dataset"),
            hint="--run-dir names it",
        )
    record: Record = read_json(directory / RECORD)
    return record


def measured(path: pathlib.Path, measure: Any) -> tuple[Record, bool]:
    """Returns what was measured, now or by an earlier start, and whether the latter."""
    if path.exists():
        found: Record = read_json(path)
        return found, True
    content = json.loads(json.dumps(measure()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content, False
