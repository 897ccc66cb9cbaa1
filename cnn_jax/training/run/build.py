"""A run's parts, resolved once from its configuration and its data.

`build_run` resolves them; `compile_run` compiles the programs for their shapes. A run
with another seed, other variables to start from or other examples of the same shapes is
built anew, and goes on with the programs that were compiled for the first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cnn_jax import data, sharding, trees
from cnn_jax.layers import abstract_variables
from cnn_jax.ranges import MAX_COUNT
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.devices.spread import ParallelStep
from cnn_jax.training.optimizers.optimizer import adapt_optimizer, make_optimizer
from cnn_jax.training.optimizers.roles import required_roles
from cnn_jax.training.optimizers.schedules import make_schedule
from cnn_jax.training.run.compiled import (
    Carry,
    CompiledRun,
    advance_carry,
    new_carry,
)
from cnn_jax.training.run.directory.identity import DESCRIPTIVE
from cnn_jax.training.run.feeds import (
    EvaluationFeed,
    Feed,
    make_evaluation,
    make_feed,
)
from cnn_jax.training.run.images import ImageFormat, augment, image_format
from cnn_jax.training.run.keys import Keys, make_keys, place_keys
from cnn_jax.training.run.memory import check_carry, check_plan
from cnn_jax.training.run.spreading import configured_shardings, spread_step
from cnn_jax.training.step.evaluation import (
    LossFn,
    MetricFns,
    Metrics,
    eval_step,
    zero_sums,
)
from cnn_jax.training.step.state import TrainState, state_options
from cnn_jax.training.step.training import step_options

Split = data.Source | data.Batches


@dataclasses.dataclass(frozen=True, eq=False)
class RunParts:
    """The parts of one run over one mesh.

    Attributes:
      model: The network.
      config: The run's configuration.
      mesh: The devices.
      feed: The training batches.
      evaluation: The batches of each split to evaluate on, by its name.
      images: The images that the model gets.
      num_classes: The number of classes.
      optimizer: The optimizer.
      schedule: The learning rate of a step; None where only the optimizer knows it.
      own_optimizer: The optimizer as the caller gave it; None for the configuration's.
      loss_fn: The caller's loss; None for softmax cross-entropy.
      metric_fns: More to report of a split, by name.
      keys: The keys, on the devices.
      initial: The variables to start from, on the devices; None to draw them.
    """

    model: Any
    config: TrainConfig
    mesh: Mesh
    feed: Feed
    evaluation: Mapping[str, EvaluationFeed]
    images: ImageFormat
    num_classes: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule | None
    own_optimizer: optax.GradientTransformation | None
    loss_fn: LossFn | None
    metric_fns: MetricFns
    keys: Keys
    initial: Any

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch."""
        return self.feed.steps_per_epoch

    @property
    def bad_images(self) -> list[dict[str, str]]:
        """The images that were skipped so far, of every split."""
        feeds: tuple[Feed | EvaluationFeed, ...] = (
            self.feed,
            *self.evaluation.values(),
        )
        return [image._asdict() for feed in feeds for image in feed.bad_images]

    @property
    def definition(self) -> dict[str, Any]:
        """Everything that the compiled programs follow from, by name."""
        ignored = ("seed", *DESCRIPTIVE, *RESUME_MAY_CHANGE)
        fields = {
            name: value
            for name, value in self.config.to_dict().items()
            if name not in ignored
        }
        return {
            **fields,
            "the model": self.model,
            "the mesh": self.mesh,
            "the images' shape and normalisation (mean, std) or crop": self.images,
            "the number of classes": self.num_classes,
            "the training split's size": self.feed.specification,
            "the splits to evaluate": {
                name: feed.specification for name, feed in self.evaluation.items()
            },
            "initial_variables": self.initial is not None,
            "optimizer": self.own_optimizer or self.config.optimizer,
            "loss_fn": self.loss_fn,
            "metrics": dict(self.metric_fns),
        }


def build_run(
    model: Any,
    config: TrainConfig,
    splits: Mapping[str, Split],
    mesh: Mesh,
    *,
    optimizer: optax.GradientTransformation | None = None,
    loss_fn: LossFn | None = None,
    metric_fns: MetricFns | None = None,
    initial_variables: Mapping[str, Any] | None = None,
    images: ImageFormat | None = None,
) -> RunParts:
    """Resolves the parts of a run.

    Args:
      model: Anything with linen's `init` and `apply`.
      config: The run's configuration.
      splits: The datasets by name: "train", and those to evaluate on.
      mesh: The devices.
      optimizer: The caller's own; None for the configuration's.
      loss_fn: The caller's own; None for softmax cross-entropy.
      metric_fns: More to report of a split, by name.
      initial_variables: The variables to start from, as `model.init` returns them; None
        to draw them.
      images: The images that the model gets; None for what `image_format` returns.

    Raises:
      ValueError: If these do not go together.
    """
    train = splits["train"]
    images = image_format(config, train) if images is None else images
    feed = make_feed(train, config, mesh, images)
    num_steps = config.epochs * feed.steps_per_epoch
    if num_steps > MAX_COUNT:
        raise ValueError(
            f"epochs: got {config.epochs:,}, which are {num_steps:,} steps; expected "
            f"fewer, of at most {MAX_COUNT:,} steps."
        )
    everywhere = sharding.replicated(mesh)
    roles = required_roles(config, model, images.specification)
    schedule, own_optimizer = None, optimizer
    if optimizer is None:
        schedule = make_schedule(config, feed.steps_per_epoch)
        optimizer = make_optimizer(
            config, schedule, roles=roles, steps_per_epoch=feed.steps_per_epoch
        )
    else:
        optimizer = adapt_optimizer(optimizer, config, roles=roles)
    initial = None
    if initial_variables is not None:
        checked = trees.arrange_like(
            abstract_variables(model, images.specification),
            initial_variables,
            name="initial_variables",
        )
        initial = jax.device_put(checked, everywhere)
    return RunParts(
        model=model,
        config=config,
        mesh=mesh,
        feed=feed,
        evaluation={
            name: make_evaluation(split, config, mesh, images)
            for name, split in splits.items()
            if name != "train"
        },
        images=images,
        num_classes=len(train.class_names),
        optimizer=optimizer,
        schedule=schedule,
        own_optimizer=own_optimizer,
        loss_fn=loss_fn,
        metric_fns=metric_fns or {},
        keys=place_keys(make_keys(config.seed), everywhere),
        initial=initial,
    )


def compile_run(parts: RunParts) -> CompiledRun:
    """Compiles the programs of a run, and of all that differ in no shape from it.

    Raises:
      ValueError: If the run needs more memory than there is.
    """
    config, images = parts.config, parts.images
    start = functools.partial(
        _start, parts.model, parts.optimizer, images.specification, config
    )
    shapes = jax.eval_shape(start, parts.keys.parameters, parts.initial)
    carry_shardings = _carry_shardings(shapes, config, parts.mesh)
    step = spread_step(
        step_options(config, parts.steps_per_epoch, parts.model, parts.loss_fn),
        config,
        parts.mesh,
        carry_shardings["state"],
    )
    # Batches of every split look alike, so one program evaluates them all.
    evaluated = next(iter(parts.evaluation.values()), None)
    carry = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        shapes,
        carry_shardings,
    )
    check_carry(config, carry, parts.mesh)
    compiled = CompiledRun(
        start=start,
        advance=functools.partial(
            _advance,
            config=config,
            schedule=parts.schedule,
            cut_batch=parts.feed.batch,
            step=step,
            num_classes=parts.num_classes,
            images=images,
        ),
        evaluate=functools.partial(
            _evaluate,
            images=images,
            loss_fn=parts.loss_fn,
            metric_fns=parts.metric_fns,
        ),
        zero_sums=functools.partial(zero_sums, parts.num_classes, parts.metric_fns),
        key=_specification(parts.keys.parameters),
        initial=jax.tree.map(_specification, parts.initial),
        carry=carry,
        inputs=parts.feed.specification,
        batch=None if evaluated is None else evaluated.specification,
        mesh=parts.mesh,
        definition=parts.definition,
    )
    check_plan(config, compiled, parts.mesh)
    return compiled


def check_compiled_for(compiled: CompiledRun, parts: RunParts) -> None:
    """Checks that programs were compiled for a run's parts.

    Raises:
      ValueError: Listing what they were compiled for another value of.
    """
    expected, found = compiled.definition, parts.definition
    differing = [
        name for name in {**expected, **found} if expected.get(name) != found.get(name)
    ]
    if differing:
        raise ValueError(
            f"compiled: got programs that were compiled with other values of "
            f"{', '.join(differing)}; expected the seed, the values of "
            "initial_variables and the examples alone to differ."
        )


def _start(
    model: Any,
    optimizer: optax.GradientTransformation,
    image: jax.ShapeDtypeStruct,
    config: TrainConfig,
    key: jax.Array,
    variables: Any,
) -> Carry:
    pixels = jnp.zeros(image.shape, image.dtype)
    options = {**state_options(config), "variables": variables}
    return new_carry(TrainState.create(model, optimizer, key, pixels, **options))


def _advance(
    carry: Carry,
    inputs: Any,
    root_key: jax.Array,
    *,
    config: TrainConfig,
    schedule: optax.Schedule | None,
    cut_batch: Callable[[Any, jax.Array], data.Arrays],
    step: ParallelStep,
    num_classes: int,
    images: ImageFormat,
) -> Carry:
    state = carry["state"]
    # All that is random in a step follows from the root key and the step's number.
    step_key = jax.random.fold_in(root_key, state.step)
    batch = cut_batch(inputs, state.step)
    batch = jax.lax.with_sharding_constraint(batch, step.batch(batch))
    batch, model_key = augment(step_key, batch, config, num_classes, images)
    new_state, metrics = step(state, batch, model_key)
    learning_rate = 0.0 if schedule is None else schedule(state.step)
    return advance_carry(
        carry,
        new_state,
        metrics,
        learning_rate=jnp.asarray(learning_rate, jnp.float32),
        skips_non_finite=config.non_finite == "skip",
    )


def _evaluate(
    state: TrainState,
    batch: data.Arrays,
    sums: Metrics,
    *,
    images: ImageFormat,
    loss_fn: LossFn | None,
    metric_fns: MetricFns,
) -> Metrics:
    found = eval_step(
        state,
        {**batch, "image": images.prepare(batch["image"])},
        loss_fn=loss_fn,
        metric_fns=metric_fns,
    )
    return {name: sums[name] + value for name, value in found.items()}


def _carry_shardings(shapes: Carry, config: TrainConfig, mesh: Mesh) -> Carry:
    """Returns the sharding of each of the carry's leaves."""
    everywhere = sharding.replicated(mesh)
    shardings = jax.tree.map(lambda leaf: everywhere, shapes)
    shardings["state"] = configured_shardings(shapes["state"], config, mesh)
    return shardings


def _specification(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
