"""Linear probing on cached features, against the same from end to end, and fine-tuning.

    python experiments/linear_probing.py --pretrained FILE --data-dir DIR --json OUT

All start from the same weights with the same new last layer and go over the training
split as often: logistic regression by SGD on features that one pass computes (and, for
its optimum, by L-BFGS), a run whose backbone is frozen, and one that trains all.
Nothing is augmented. Times are those of training, with compilation apart and evaluation
left out. The first probe's is all of its wall time, the test split's features and
compilation included; the second finds the features in the first's cache.

A tenth of CIFAR-10 takes about seven minutes on two CPU cores
(`experiments/results/linear_probing_cifar10.json`), nearly all of it the fine-tuning,
which comes last; every way prints a line when it is done.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import dataclasses
import json
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from cnn_jax import data
from cnn_jax.experiment import REFUSALS
from cnn_jax.files import check_output, write_output
from cnn_jax.messages import printable, say
from cnn_jax.models import create_model
from cnn_jax.pretrained import load_pretrained
from cnn_jax.report.environment import command_line, describe_environment
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.fit import fit
from cnn_jax.transfer.policies import feature_extraction, freeze_backbone
from cnn_jax.transfer.probe import with_head


@dataclasses.dataclass(frozen=True)
class Probing:
    """The probes compared, and their data."""

    pretrained: str
    """Weights of the model, as `cnn_jax.load_pretrained` takes them."""
    model: str = "resnet20"
    """Name of the model."""
    dataset: str = "cifar10"
    """Name of a prepared TFDS set."""
    data_dir: str | None = None
    """Its directory."""
    train_split: str = "train"
    """Split to train on."""
    test_split: str = "test"
    """Split to report the score of."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean that the weights were trained with: per channel, of pixels in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per channel, what is then divided by."""
    epochs: int = 10
    """Passes over the training split, of each way."""
    learning_rate: float = 0.1
    """Of the probe from end to end."""
    fine_tune_rate: float = 0.01
    """Of fine-tuning."""
    seed: int = 0
    """Seed of the new last layer and of the order."""
    json: str | None = None
    """File to write the numbers to. Default: nowhere."""


def compare(options: Probing) -> dict[str, dict[str, float]]:
    """Returns accuracy and seconds of every way."""
    config = TrainConfig(
        model=options.model,
        dataset=options.dataset,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        schedule="cosine",
        seed=options.seed,
        mean=options.mean,
        std=options.std,
    )
    config.validate()
    train, test = (
        data.open_split(options.dataset, split, data_dir=options.data_dir)
        for split in (options.train_split, options.test_split)
    )
    model = create_model(options.model, num_classes=len(train.class_names))
    images = jax.ShapeDtypeStruct((1, *train.features.image_shape), jnp.float32)
    variables = _with_new_head(model, options, images)
    rows = {}
    with tempfile.TemporaryDirectory() as cache:
        for method in ("sgd", "lbfgs"):
            probe = feature_extraction(
                model, variables, config, train, test, method=method, cache_dir=cache
            )
            rows[f"probe on features, {method}"] = {
                "accuracy": probe.test["accuracy"],
                "train_seconds": probe.feature_seconds + probe.fit_seconds,
                "feature_seconds": probe.feature_seconds,
                "fit_seconds": probe.fit_seconds,
            }
            _print(rows)
    configs = {
        "probe from end to end": freeze_backbone(config, model, images),
        "fine-tuning": dataclasses.replace(
            config, learning_rate=options.fine_tune_rate
        ),
    }
    for name, each in configs.items():
        result = fit(
            model,
            train,
            test=test,
            config=each,
            initial_variables=variables,
            progress=False,
        )
        rows[name] = {
            "accuracy": result.test["accuracy"],
            "train_seconds": result.train_seconds,
            "compile_seconds": result.compile_seconds,
        }
        _print(rows)
    return rows


def _with_new_head(model: Any, options: Probing, images: jax.ShapeDtypeStruct) -> Any:
    """Returns the trained variables with a last layer of zeros."""
    variables, _ = load_pretrained(
        model,
        options.pretrained,
        key=jax.random.key(options.seed),
        input_shape=images.shape[1:],
    )
    zeros = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    return with_head(model, variables, zeros, images)


def _print(rows: dict[str, dict[str, float]]) -> None:
    name, row = list(rows.items())[-1]
    say(f"{name:24} {row['accuracy']:7.2%} {row['train_seconds']:8.1f} s")


def main(arguments: list[str] | None = None) -> None:
    """Compares, prints a line each and writes the numbers."""
    options = program.parsed(
        lambda: tyro.cli(Probing, args=arguments, description=__doc__), arguments
    )
    try:
        with program.signals(is_run=True):
            if options.json is not None:
                check_output(options.json, [options.pretrained])
            rows = compare(options)
    except program.Stopped as stopped:
        sys.exit(program.status_of(stopped, is_run=True))
    except REFUSALS as error:
        sys.exit(printable(f"{type(error).__name__}: {error}", keep="\n\t"))
    probe, whole = rows["probe on features, sgd"], rows["fine-tuning"]
    share = probe["train_seconds"] / whole["train_seconds"]
    say(f"the probe takes {share:.3f} of fine-tuning's time")
    if options.json is not None:
        record = {
            "command": command_line(),
            "environment": dataclasses.asdict(describe_environment()),
            "rows": rows,
            "probe_share_of_fine_tuning": share,
        }
        text = json.dumps(record, indent=1) + "\n"
        write_output(options.json, text, inputs=[options.pretrained])


if __name__ == "__main__":
    main()
