"""A linear probe as a run: a classifier on a network's features, kept in a directory.

Beside `experiment`, which trains networks: what it leaves is read by `predict` and
`load_pretrained` like the directory of a training run.

    config.json   the configuration, the images, and `"method": "probe"`
    checkpoints/  the network with the classifier as its last layer
    result.json   how good it is, and how the fit ended
    scores.json   the test split by class, its confusions and surest mistakes
    report.html   the same to look at
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from cnn_jax import data, files, messages, program, trees
from cnn_jax.checkpoint import installed_versions
from cnn_jax.checkpoint.lock import lock_new
from cnn_jax.data.sources.folder import FOLDER
from cnn_jax.evaluation.of_run import score_test
from cnn_jax.files import json_value
from cnn_jax.models import create_model
from cnn_jax.pretrained import ConversionReport, load_pretrained
from cnn_jax.pretrained.convert import write_weights
from cnn_jax.pretrained.files.own_weights import KIND
from cnn_jax.pretrained.load import stored_channels
from cnn_jax.report import html, study
from cnn_jax.report.environment import without_private_paths
from cnn_jax.report.evaluation_page import score_blocks
from cnn_jax.report.finished_run import SCORES
from cnn_jax.report.run_page import PAGE, SPLIT_COLUMNS
from cnn_jax.report.statistics import accuracy_interval
from cnn_jax.report.table import table_of
from cnn_jax.report.words import count, duration
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.channels import weights_channels, with_input_channels
from cnn_jax.training.run.images import ImageFormat, image_format, image_shape
from cnn_jax.training.run.keys import make_keys
from cnn_jax.transfer.policies import ProbeResult, feature_extraction
from cnn_jax.transfer.probe import with_head


def run(config: TrainConfig, splits: Mapping[str, data.Source]) -> ProbeResult:
    """Fits a linear classifier to the features of `config.pretrained`, and keeps it.

    Args:
      config: Says which model, weights and run directory, how images are read, and by
        `weight_decay` the penalty.
      splits: `"train"` and `"test"`.

    Raises:
      ValueError: If the weights do not fit, or the model's last layer is not one dense
        layer.
      OSError, CheckpointError: If the directory cannot be written.
    """
    assert config.pretrained is not None
    assert config.run_dir is not None
    train, test = splits["train"], splits["test"]
    model = create_model(
        config.model,
        num_classes=len(train.class_names),
        in_channels=config.in_channels,
        dtype=config.dtype,
    )
    weights = config.pretrained
    channels = weights_channels(
        config,
        model,
        train.features.image_shape,
        lambda: stored_channels(model, weights),
    )
    splits = with_input_channels(splits, channels)
    train, test = splits["train"], splits["test"]
    variables, report = load_pretrained(
        model,
        config.pretrained,
        key=make_keys(config.seed).parameters,
        input_shape=image_shape(config, train),
    )
    messages.say(f"{config.pretrained}: {report}")
    images = image_format(config, train, weights=report.provenance.preprocessing)
    _check_head(model, variables, images.specification)
    messages.say(f"features of {count(len(train) + len(test), 'image')}")
    result = feature_extraction(
        model, variables, config, train, test, images=images, show_progress=True
    )
    variables = with_head(model, variables, result.parameters, images.specification)
    scores = json_value(score_test(model, variables, test, images, config))
    about = {
        "config": config.to_dict(),
        "method": "probe",
        "dataset": {name: split.fingerprint for name, split in splits.items()},
        "images": images.to_dict(),
        "versions": installed_versions(),
    }
    metadata = _metadata(config, train, variables, report, images)
    page = _page(config, result, images, train, test, scores)
    directory = pathlib.Path(config.run_dir).expanduser()
    program.signals_say(
        f"stopped while the probe was written to {directory}. Remove what is there, "
        "and the same command starts again."
    )
    with lock_new(directory):
        write_weights(directory / "checkpoints", variables, metadata)
        study.write_json(directory / "config.json", about)
        study.write_json(directory / "result.json", _summary(result))
        study.write_json(directory / SCORES, scores)
        files.write_text(directory / PAGE, page)
    program.signals_say(f"the probe in {directory} is over, its page written.")
    return result


def _check_head(model: Any, variables: Any, images: jax.ShapeDtypeStruct) -> None:
    """Raises what `with_head` would, before the features are computed."""
    head = {
        path.rpartition("/")[2]: leaf
        for path, leaf in trees.named_leaves(variables["params"]).items()
        if path.startswith("head/")
    }
    if "kernel" in head:
        with_head(model, variables, head, images)
    if "kernel" not in head or head["kernel"].ndim != 2:
        raise ValueError(
            f"model: got {type(model).__name__}, expected a network whose last layer "
            "is one dense layer."
        )


def _metadata(
    config: TrainConfig,
    train: data.Source,
    variables: Any,
    report: ConversionReport,
    images: ImageFormat,
) -> dict[str, Any]:
    """Returns what `convert` would write of these weights."""
    provenance = report.provenance
    return {
        "kind": KIND,
        "model": config.model,
        "fields": {}
        if config.in_channels is None
        else {"in_channels": config.in_channels},
        "dtype": config.dtype,
        "num_classes": len(train.class_names),
        "class_names": list(train.class_names),
        "source": report.source,
        "location": provenance.location,
        "revision": provenance.revision,
        "part": provenance.part,
        "sha256": None,
        "preprocessing": images.to_dict(),
        "arrays": trees.leaf_specs(variables),
        "keys": dict(report.loaded),
        "ignored": list(report.ignored),
        "cast": {path: list(dtypes) for path, dtypes in report.cast.items()},
        "initialized": [],
        "versions": installed_versions(),
    }


def _summary(result: ProbeResult) -> dict[str, Any]:
    fields = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in ("parameters", "report")
    }
    return {**fields, "fit": result.report._asdict()}


def _page(
    config: TrainConfig,
    result: ProbeResult,
    images: ImageFormat,
    train: data.Source,
    test: data.Source,
    scores: Mapping[str, Any],
) -> str:
    accuracy = accuracy_interval(
        [result.test["accuracy"]], int(result.test["num_examples"])
    )
    rows = [
        {"split": "Training", **result.train},
        {"split": "Test", **result.test, "accuracy": accuracy},
    ]
    table = table_of("Both splits", SPLIT_COLUMNS, rows, notes=[study.interval_note(1)])
    name = without_private_paths(config.dataset.removeprefix(FOLDER))
    summary = (
        f"A linear classifier on the features of {config.model} reached "
        f"{result.test['accuracy']:.2%} on {count(len(test), 'test example')} of "
        f"{len(train.class_names):,} classes; the network itself stayed as it was."
    )
    end = "converged" if result.report.converged else "not converged"
    costs = {
        "Features": f"{duration(result.feature_seconds)}, of "
        f"{count(len(train) + len(test), 'image')}",
        "Fit": f"{duration(result.fit_seconds)}, "
        f"{count(result.report.num_iterations, 'iteration')}, {end}",
    }
    made = {
        "Weights": without_private_paths(str(config.pretrained)),
        "Images": str(images.preprocessing),
        "Penalty": f"{config.weight_decay:g} / 2 |W|^2",
        "Seed": str(config.seed),
        "Versions": ", ".join(
            f"{name} {value}" for name, value in installed_versions().items()
        ),
    }
    return html.render_page(
        f"{config.model} on {name}: linear probe",
        summary,
        [
            html.Section("Results", [table, html.Facts(costs)]),
            *score_blocks(scores, of=" on the test split"),
            html.Section("How this was made", [html.Facts(made)]),
        ],
        kicker="cnn_jax, one linear probe",
    )
