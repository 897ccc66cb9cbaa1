"""Trains any model on any data: checks, builds, compiles and runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from cnn_jax import data, sharding
from cnn_jax.allocator import keep_memory
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.build import Split, build_run, check_compiled_for, compile_run
from cnn_jax.training.run.channels import input_channels, with_input_channels
from cnn_jax.training.run.checks import (
    check_is_model,
    check_losses,
    check_model,
    check_optimizer,
    check_regularizers,
    num_logits,
)
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.directory.identity import (
    described,
    identify_model,
    identify_parts,
)
from cnn_jax.training.run.directory.store import Store
from cnn_jax.training.run.images import (
    ImageFormat,
    image_format,
    image_shape,
    pixel_dtype,
)
from cnn_jax.training.run.loop import Callback, Loop
from cnn_jax.training.run.memory import check_estimate
from cnn_jax.training.run.result import FitResult
from cnn_jax.training.run.stopping import (
    RunStoppedError,
    StopNow,
    StopSignals,
    is_interactive,
)
from cnn_jax.training.step.evaluation import LossFn, MetricFns


def fit(
    model: Any,
    train: data.Given,
    *,
    test: data.Given | None = None,
    validation: data.Given | None = None,
    config: TrainConfig | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss_fn: LossFn | None = None,
    metrics: MetricFns | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    mesh: Mesh | None = None,
    compiled: CompiledRun | None = None,
    initial_variables: Mapping[str, Any] | None = None,
    macs_per_example: int | None = None,
    weights_preprocessing: Mapping[str, Any] | None = None,
) -> FitResult:
    """Trains a model.

    Args:
      model: A Linen module, or anything with its `init` and `apply`:
        `init(key, images, train=False)` gives `{"params"}`, with `"batch_stats"` if it
        has any, and `apply(variables, images, train=...)` logits `(n, classes)`.
      train: The training split: `(images, labels)`, images uint8 or floating-point
        `(n, height, width, channels)` and integer labels `(n,)`; a `data.Source`, of
        which a `data.Dataset` is kept on the devices and any other is streamed; or an
        iterable of such pairs in batches, as a Grain dataset is (see `data.Batches`).
      test: The test split, likewise: evaluated and reported, never used for a decision.
      validation: The split that early stopping goes by; when None, the part of `train`
        that `config.validation_fraction` says is held out.
      config: The run's configuration; None for the defaults. `model`, `dataset`,
        `data_dir` and `image_size` only describe what the other arguments already are.
        What is recorded is what these are: the model's registered name, else the
        qualified name of its class unless `config.model` is a name of the caller's own,
        and the data's name.
      optimizer: An optax transformation in place of the configuration's, with a
        learning rate of its own.
      loss_fn: A pure function of logits `(n, classes)` and labels `(n,)`, or
        `(n, classes)` where the configuration mixes images, that returns one loss per
        example `(n,)`; None for softmax cross-entropy.
      metrics: More such functions by name, whose means are reported of every split that
        is evaluated.
      callbacks: Functions called with every line of metrics and the state.
      progress: Whether to show a progress bar, if the terminal or notebook can.
      mesh: The devices to train on; when None, all of them on `config.mesh`.
      compiled: Programs of `build.compile_run`, compiled on this mesh for a run that
        differs in seed, start and examples alone; when None, they are compiled here.
      initial_variables: `{"params", "batch_stats"}` to start from, of the tree, shapes
        and dtypes that `model.init` gives; when None, what that draws. A resumed run
        goes on from its checkpoint.
      macs_per_example: Multiply-adds of a forward pass, for `flops_utilization`.
      weights_preprocessing: What the weights in `initial_variables` say of their
        images, see `cnn_jax.pretrained.Provenance`; the configuration goes before. A
        resumed run prepares images as it was begun with.

    On a CPU the process keeps the memory that it frees from then on, unless
    `config.keep_memory` is False; see `cnn_jax.allocator`.

    Returns:
      The result. With `config.run_dir`, everything but arrays is also in `result.json`.
      Ctrl-C in an interactive session ends the run with the result so far, unless a
      `run_dir` keeps it.

    Raises:
      ValueError: If an argument is of another kind, the model does not make logits for
        the classes of these images, or has not the regularisers of the configuration;
        if the configuration, the splits and the mesh do not fit together, or
        what is resumed was made with another configuration, dataset, optimizer or loss
        (`ResumeRefusedError`); raised before anything is compiled.
      FileExistsError: If `run_dir` holds a run and `config.resume` is False.
      NonFiniteLossError: If the loss or a gradient became NaN or infinite, with
        `config.non_finite` "skip" more often than `maximum_skipped_steps`.
      RunStoppedError: If SIGTERM or SIGINT came; the run is saved. See
        `cnn_jax.training.run.stopping`; without a `run_dir` signals do what they do.
      CheckpointError, OSError: If the run directory cannot be written, or what is to be
        resumed is damaged.
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"config: got a {type(config).__name__}, expected a TrainConfig: "
            "fit(model, train, test=test, config=TrainConfig(...))."
        )
    config.validate()
    keep_memory(config.keep_memory)
    check_is_model(model)
    given = {"train": train, "validation": validation, "test": test}
    splits = _splits(model, config, given, initial_variables)
    check_regularizers(model, config)
    identity, configured = identify_model(model, config.model), config
    config = described(config, identity, splits["train"], splits.get("test"))
    images = _check_splits(config, splits, weights_preprocessing)
    num_classes = len(splits["train"].class_names)
    mesh = sharding.with_automatic_axes(
        sharding.make_mesh(specification=config.mesh) if mesh is None else mesh
    )
    sharding.check_batch_size(config.batch_size, mesh)
    params = None
    if compiled is None or optimizer is not None:
        found = check_model(model, images.shape, num_classes, config.dtype)
        check_estimate(config, splits, images, found, mesh)
        params = found["params"]
    check_losses(config, num_classes, loss_fn, metrics)
    check_optimizer(config, optimizer, params)
    own_parts = identify_parts(optimizer, loss_fn, metrics, params)

    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.own_mesh(mesh))
        store: Store | None = None
        signals = StopSignals(
            is_interactive=is_interactive(), has_directory=config.run_dir is not None
        )
        if config.run_dir is not None:
            store = stack.enter_context(
                Store(config, splits, identity, images, own_parts, mesh, configured)
            )
            images = store.images
        stack.enter_context(signals)
        parts = build_run(
            model,
            config,
            splits,
            mesh,
            optimizer=optimizer,
            loss_fn=loss_fn,
            metric_fns=metrics,
            initial_variables=initial_variables,
            images=images,
        )
        stack.callback(parts.feed.close)
        if compiled is None:
            compiled = compile_run(parts)
        check_compiled_for(compiled, parts)
        loop = Loop(parts, compiled, store, signals, callbacks, macs_per_example)
        stack.callback(loop.close)
        loop.begin()
        try:
            loop.train(show_progress=progress)
            return loop.finish()
        except StopNow:
            if store is None:
                signals.dismiss()
                return loop.finish(interrupted=True)
            loop.save()
            store.close()
            assert config.run_dir is not None  # that is why there is a store
            raise RunStoppedError(
                signals.name, loop.step, loop.num_steps, config.run_dir
            ) from None


def _splits(
    model: Any,
    config: TrainConfig,
    given: Mapping[str, Any],
    initial_variables: Mapping[str, Any] | None,
) -> dict[str, Split]:
    """Returns the splits that were given, and the one to validate on if it is held out.

    Classes without names are numbered, as many as the model has logits. Grey images are
    repeated for a network that reads colour.
    """
    image = data.given_image("train", given["train"])
    if image is None:
        class_names = given["train"].class_names
        known = given["train"]
        is_batches = isinstance(known, data.Batches)
        shape = known.image_shape if is_batches else known.features.image_shape
        channels = input_channels(config, model, shape, initial_variables)
    else:
        channels, shape = 0, image.shape
        if len(shape) == 3:  # `as_split` refuses all others
            channels = input_channels(config, model, shape, initial_variables)
            shape = (*shape[:2], channels)
        count = num_logits(model, shape, config.dtype)
        class_names = tuple(map(str, range(count)))
    made = {
        name: data.as_split(name, split, class_names)
        for name, split in given.items()
        if split is not None or name == "train"
    }
    splits: dict[str, Split] = with_input_channels(made, channels)
    if not config.validation_fraction:
        return splits
    if "validation" in splits:
        raise ValueError("validation: given, while validation_fraction is not 0.")
    train, fraction, seed = splits["train"], config.validation_fraction, config.seed
    if isinstance(train, data.Batches):
        raise ValueError(
            f"validation_fraction: got {fraction} for an iterable of batches, of which "
            "none is held out; expected 0, with `validation` given."
        )
    parts: tuple[Split, Split]
    if isinstance(train, data.Dataset):
        parts = train.split_off(fraction, seed)
    else:
        parts = data.hold_out(train, fraction, seed)
    held_out = {"train": parts[0], "validation": parts[1]}
    return held_out | ({"test": splits["test"]} if "test" in splits else {})


def _check_splits(
    config: TrainConfig,
    splits: Mapping[str, Split],
    weights: Mapping[str, Any] | None,
) -> ImageFormat:
    """Checks that the splits go together; returns the format of their images."""
    train = splits["train"]
    shape = image_shape(config, train)
    for name, split in splits.items():
        found = (pixel_dtype(split), image_shape(config, split), split.class_names)
        if found != (pixel_dtype(train), shape, train.class_names):
            raise ValueError(
                f"{name}: got images {found[1]} ({found[0]}) of "
                f"{len(split.class_names)} classes, expected the training split's "
                f"{shape} ({pixel_dtype(train)}) of {len(train.class_names)}, "
                "under the same names."
            )
    if config.patience is not None and "validation" not in splits:
        raise ValueError(
            f"patience: got {config.patience} without a validation split; expected "
            "validation_fraction above 0, since the test split decides nothing."
        )
    # The last, since it may read the whole split.
    return image_format(config, train, weights=weights)
