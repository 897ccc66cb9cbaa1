"""Three ways to use a trained network for another task.

`feature_extraction` fits a linear classifier to features that are computed once.
`fine_tune` trains all layers. `head_then_all` trains the last layer alone, then all of
them at a lower rate. What they share is in the configuration: `batch_norm`, `l2_sp`,
`layer_decay`. The last two policies are functions from a configuration to those of the
runs, which `fit_in_turn` carries out:

    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    configs = head_then_all(config, model, images, head_epochs=2)
    results = fit_in_turn(model, configs, train, test, initial_variables=variables)

Whether the last layer moves first matters: a random one sends large gradients through
features that were good (Kumar et al. 2022, "Fine-Tuning Can Distort Pretrained Features
and Underperform Out-of-Distribution").
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cnn_jax import data, messages
from cnn_jax import kernels as K
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optimizers import roles
from cnn_jax.training.run.channels import input_channels, with_input_channels
from cnn_jax.training.run.checks import check_source
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import ImageFormat, image_format
from cnn_jax.training.run.keys import make_keys
from cnn_jax.training.run.result import FitResult
from cnn_jax.transfer.feature_cache import Features, split_features
from cnn_jax.transfer.probe import (
    FitReport,
    Method,
    Parameters,
    fit_logistic_regression,
)


@dataclasses.dataclass(frozen=True, repr=False)
class ProbeResult:
    """The result of `feature_extraction`.

    Attributes:
      parameters: `{"kernel": (d, classes), "bias": (classes,)}` of the classifier.
      report: How its fit ended.
      train: `{"loss", "accuracy", "num_examples"}` of the training split; the loss is
        without the penalty.
      test: The same of the test split.
      feature_seconds: Wall time until all features were there, compilation included.
      fit_seconds: That of the fit.
      num_cached: How many of the two splits' features were read from files.
    """

    parameters: Parameters
    report: FitReport
    train: dict[str, float]
    test: dict[str, float]
    feature_seconds: float
    fit_seconds: float
    num_cached: int

    def __repr__(self) -> str:
        return (
            f"ProbeResult(train accuracy {self.train['accuracy']:.6g}, test accuracy "
            f"{self.test['accuracy']:.6g}; {self.report})"
        )


def feature_extraction(
    model: Any,
    variables: Mapping[str, Any],
    config: TrainConfig,
    train: data.Source,
    test: data.Source,
    *,
    method: Method = "lbfgs",
    cache_dir: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    images: ImageFormat | None = None,
    show_progress: bool = False,
    **options: Any,
) -> ProbeResult:
    """Fits a linear classifier to the features of a network that stays as it is.

    The features are those of the images as evaluation sees them: nothing is augmented,
    dropped or normalised by a batch. What is minimised is the mean cross-entropy with
    the penalty `weight_decay / 2 |W|^2`, which is what the last layer minimises in a
    run of `freeze_backbone` without augmentation.

    Args:
      model: A linen module with `num_classes`; its last layer is not used.
      variables: Its variables, of which those of a last layer are not read.
      config: Read are what it says of images and their normalisation, `batch_size`,
        `weight_decay`, `seed` and, for SGD, `epochs`. Without `mean` and `std` another
        part of a training split is normalised otherwise, and has other features.
      train: What the classifier is fitted to.
      test: What it is evaluated on.
      method: `"lbfgs"` or `"sgd"`.
      cache_dir: Where features are kept and found again, see `feature_cache`; None
        keeps none.
      mesh: The devices for the features; when None, all of them on `config.mesh`.
      images: How images are prepared; None for what `image_format` returns.
      show_progress: Whether to show a bar on standard error, if that is a terminal.
      **options: Of `probe.fit_logistic_regression`.

    Returns:
      The classifier, how good it is and what it cost.

    Raises:
      ValueError: If the variables are not the model's, or an option is wrong.
    """
    config.validate()
    for name, split in (("train", train), ("test", test)):
        check_source(name, split)
    started = time.perf_counter()
    if images is None:
        channels = input_channels(config, model, train.features.image_shape, variables)
        splits = with_input_channels({"train": train, "test": test}, channels)
        train, test = splits["train"], splits["test"]
        images = image_format(config, train)
    with messages.progress(shown=show_progress) as bar:
        task = bar.add_task("features", total=len(train) + len(test))
        found = [
            split_features(
                model,
                variables,
                config,
                train,
                split,
                cache_dir=cache_dir,
                mesh=mesh,
                images=images,
                advance=lambda count: bar.advance(task, count),
            )
            for split in (train, test)
        ]
    featured = time.perf_counter()
    if method == "sgd":
        options = {
            "key": make_keys(config.seed).steps,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            **options,
        }
    options = {"l2": config.weight_decay, **options}
    parameters, report = fit_logistic_regression(
        found[0].features,
        found[0].labels,
        len(train.class_names),
        method=method,
        **options,
    )
    fitted = time.perf_counter()
    train_metrics, test_metrics = (_evaluate(parameters, each) for each in found)
    return ProbeResult(
        parameters=parameters,
        report=report,
        train=train_metrics,
        test=test_metrics,
        feature_seconds=featured - started,
        fit_seconds=fitted - featured,
        num_cached=sum(each.was_cached for each in found),
    )


def freeze_backbone(
    config: TrainConfig, model: Any, images: jax.ShapeDtypeStruct
) -> TrainConfig:
    """Returns the configuration of a run in which the last layer alone learns.

    All other parameters and all statistics stay as they are; dropout and augmentation
    act. It is linear probing from end to end, where `feature_extraction` takes a short
    cut.

    Args:
      config: The run's configuration.
      model: A linen module with `num_classes`.
      images: Shape and dtype of a batch that it takes.
    """
    backbone = roles.backbone_pattern(model, images)
    return dataclasses.replace(
        config,
        frozen_parameters=(*config.frozen_parameters, backbone),
        batch_norm="frozen",
        l2_sp=0.0,
        layer_decay=None,
        unfreeze_epochs=(),
    )


def fine_tune(
    config: TrainConfig,
    model: Any,
    images: jax.ShapeDtypeStruct,
    *,
    epochs_per_stage: float | None = None,
) -> tuple[TrainConfig]:
    """Returns the configuration of a run that trains all layers.

    Args:
      config: The run's configuration, with `batch_norm`, `l2_sp` and `layer_decay`.
      model: A linen module whose call takes `endpoints`, for `epochs_per_stage`.
      images: Shape and dtype of a batch that it takes.
      epochs_per_stage: For gradual unfreezing (Howard and Ruder 2018): the last layer
        moves from the start, the stage before it from this epoch on, the one before
        that from twice this epoch on, and so on. None trains all from the start.

    Returns:
      One configuration, for `fit_in_turn`.

    Raises:
      ValueError: If the epochs do not suffice for all stages, or the model cannot tell
        its stages.
    """
    if epochs_per_stage is None:
        return (config,)
    depths = roles.parameter_depths(model, images)
    last = max(depths.values()) * epochs_per_stage
    if not 0 < last < config.epochs:
        raise ValueError(
            f"epochs_per_stage: got {epochs_per_stage} for {max(depths.values())} "
            f"stages in {config.epochs} epochs, expected a number above 0 that lets "
            "the first stage move before the run ends."
        )
    stages = []
    for depth in range(1, max(depths.values()) + 1):
        paths = "|".join(re.escape(path) for path, at in depths.items() if at == depth)
        stages.append((f"^(?:{paths})$", depth * epochs_per_stage))
    return (dataclasses.replace(config, unfreeze_epochs=tuple(stages)),)


def head_then_all(
    config: TrainConfig,
    model: Any,
    images: jax.ShapeDtypeStruct,
    *,
    head_epochs: int,
    rate_factor: float = 0.1,
) -> tuple[TrainConfig, TrainConfig]:
    """Returns the configurations of two runs, the second from where the first ended.

    Each has a schedule of its own, a resume that is exact, and in `config.run_dir` a
    directory of its own, `head` and `all`.

    Args:
      config: What both have in common; `epochs` is the number of both together.
      model: A linen module with `num_classes`.
      images: Shape and dtype of a batch that it takes.
      head_epochs: How long the last layer learns alone, as by `freeze_backbone`.
      rate_factor: What the learning rate is multiplied by in the second run.

    Raises:
      ValueError: If `head_epochs` leaves no epoch to one of the runs.
    """
    if not 1 <= head_epochs < config.epochs:
        raise ValueError(
            f"head_epochs: got {head_epochs} of {config.epochs} epochs, expected at "
            "least 1 for each of the two runs."
        )
    head = dataclasses.replace(
        freeze_backbone(config, model, images),
        epochs=head_epochs,
        run_dir=_within(config.run_dir, "head"),
    )
    whole = dataclasses.replace(
        config,
        epochs=config.epochs - head_epochs,
        learning_rate=config.learning_rate * rate_factor,
        run_dir=_within(config.run_dir, "all"),
    )
    return head, whole


def fit_in_turn(
    model: Any,
    configs: Sequence[TrainConfig],
    train: data.Source,
    test: data.Source,
    *,
    initial_variables: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[FitResult]:
    """Trains by one configuration after another, each from where the last one ended.

    Args:
      model: Anything with linen's `init` and `apply`.
      configs: The runs'. With `resume`, runs that have ended are not repeated.
      train: The training split.
      test: The test split.
      initial_variables: What the first starts from; None for what `model.init` draws.
      **options: Of `cnn_jax.fit`, for each.

    Returns:
      The result of each run; the next one starts from its `best_variables`.
    """
    for config in configs:
        config.validate()
    results = []
    for config in configs:
        result = fit(
            model,
            train,
            test=test,
            config=config,
            initial_variables=initial_variables,
            **options,
        )
        initial_variables = result.best_variables
        results.append(result)
    return results


def _evaluate(parameters: Parameters, found: Features) -> dict[str, float]:
    loss, accuracy = _score(parameters, found.features, found.labels)
    return {
        "loss": float(loss),
        "accuracy": float(accuracy),
        "num_examples": len(found.labels),
    }


@jax.jit
def _score(parameters, features, labels):
    """Returns the mean loss and the share of right answers."""
    logits = features @ parameters["kernel"] + parameters["bias"][None]
    losses = K.softmax_cross_entropy(logits, labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _within(run_dir: str | None, name: str) -> str | None:
    return None if run_dir is None else os.path.join(run_dir, name)
