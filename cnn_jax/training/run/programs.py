"""What runs on the devices: the compiled programs of a run.

One program takes a batch from its feed's inputs, crops, flips, normalises and trains on
it; the host only calls it, and passes nothing in but arrays that are on the devices
already. Everything is compiled ahead of time, so that compilation is timed
apart and a second compilation is an error rather than a pause.

The *carry* is all that changes from step to step, one tree, donated to each step:

    state           the TrainState
    epoch           sums of the metrics since the epoch began
    interval        sums of the metrics since the last log line
    first_bad_step  the first step whose loss or gradients were not finite, or -1
    first_bad_leaf  and the first such leaf of its gradients, or -1
    num_skipped     the steps whose update was skipped for it
    learning_rate   of the last step
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from cnn_jax import data, sharding, trees
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.devices.spread import ParallelStep, make_step
from cnn_jax.training.optimizers.optimizer import make_optimizer
from cnn_jax.training.optimizers.roles import needed_anatomy
from cnn_jax.training.optimizers.schedules import make_schedule
from cnn_jax.training.run.directory.identity import DESCRIPTIVE
from cnn_jax.training.run.feeds import (
    EvaluationFeed,
    Feed,
    ResidentFeed,
    channel_statistics,
    image_shape,
    make_evaluation,
    make_feed,
)
from cnn_jax.training.run.keys import make_keys, place_keys
from cnn_jax.training.step.evaluation import (
    Metrics,
    eval_step,
    evaluation_metrics,
    zero_sums,
)
from cnn_jax.training.step.state import TrainState, state_options
from cnn_jax.training.step.training import step_options, train_step

Carry = dict[str, Any]

BATCHES_PER_SUM = 256
"""Batches of an evaluation that are summed in float32 before the host adds them up."""


class Programs:
    """The programs of one run over one mesh, with the data they work on.

    Args:
      model: Anything with linen's `init` and `apply`.
      config: The run's configuration.
      splits: The datasets by name: "train", and those to evaluate on.
      mesh: The devices.
      initial_variables: What to start from, as `model.init` returns it; None for what
        that draws.

    Attributes:
      devices: Where they run.
      feed: Where the training batches come from.
      steps_per_epoch: How many batches an epoch has.
      compile_seconds: What tracing and compiling took.
      peak_memory_bytes: What the training step needs on one device: arguments, results
        and temporaries, as planned by the compiler; 0 where it does not tell.
    """

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        splits: Mapping[str, data.Source],
        mesh: Mesh,
        initial_variables: Mapping[str, Any] | None = None,
    ):
        train = splits["train"]
        self._model, self._config, self._splits = model, config, dict(splits)
        self._everywhere = sharding.replicated(mesh)
        self.devices: tuple[Any, ...] = tuple(mesh.devices.flat)
        self.feed: Feed = make_feed(train, config, mesh)
        self.steps_per_epoch: int = self.feed.steps_per_epoch
        self._evaluation: dict[str, EvaluationFeed] = {
            name: make_evaluation(split, config, mesh)
            for name, split in splits.items()
            if name != "train"
        }
        schedule = make_schedule(config, self.steps_per_epoch)
        self._first_bad: Any = None
        shape = (1, *image_shape(config, train))
        image = jax.ShapeDtypeStruct(shape, jnp.dtype(config.dtype))
        self._image = image
        self._set_initial(initial_variables)
        started = time.perf_counter()
        optimizer = make_optimizer(
            config,
            schedule,
            anatomy=needed_anatomy(config, model, image),
            steps_per_epoch=self.steps_per_epoch,
        )
        self._seed(config.seed)
        start = functools.partial(
            _start, model=model, optimizer=optimizer, image=image, config=config
        )
        # Compiling needs the carry's shapes, not its values.
        carry, step = self._spread(start, mesh)
        lies = jax.tree.map(lambda leaf: leaf.sharding, carry)
        # Run once, so compiled in a hurry: with every optimisation, XLA's CPU compiler
        # takes half a minute over the random numbers of a deep network.
        in_a_hurry = {"xla_backend_optimization_level": 0}
        self._start = self._compile(
            start,
            self._keys.parameters,
            self._initial,
            out=lies,
            options=in_a_hurry if mesh.devices.flat[0].platform == "cpu" else None,
        )
        self._zero_tally = self._compile(_zero_tally)
        self._zero_sums = self._compile(
            functools.partial(zero_sums, len(train.class_names))
        )
        prepare = preparation(config, train)
        self._step = self._compile(
            functools.partial(
                _advance,
                config=config,
                schedule=schedule,
                cut_batch=self.feed.batch,
                step=step,
                num_classes=len(train.class_names),
                prepare=prepare,
            ),
            carry,
            self.feed.specification,
            self._keys.steps,
            out=lies,
            donate=0,
        )
        # Batches of every split look alike, so one program evaluates them all.
        some = next(iter(self._evaluation.values()))
        self._evaluate = self._compile(
            functools.partial(_evaluate, prepare=prepare),
            carry["state"],
            some.specification,
            self._zero_sums(),
            donate=2,
        )
        self.compile_seconds: float = time.perf_counter() - started
        self.peak_memory_bytes: int = _memory_bytes(self._step)

    def reuse(
        self,
        model: Any,
        config: TrainConfig,
        splits: Mapping[str, data.Source],
        initial_variables: Mapping[str, Any] | None = None,
    ) -> Programs:
        """Returns these programs, compiled once, for a run with another seed or start.

        The training examples may be others too, where normalisation is the
        configuration's (`mean`) and both sets are in memory, equally many and alike.

        Raises:
          ValueError: If more differs than these, the numbers that the run starts from,
            and where its files go.
        """
        ignored = dict.fromkeys(("seed", *DESCRIPTIVE, *RESUME_MAY_CHANGE))
        expected, found = (
            {**each.to_dict(), **ignored} for each in (self._config, config)
        )
        differing = [name for name in expected if expected[name] != found[name]]
        if model != self._model:
            differing.append("the model")
        if not self._serves(splits):
            differing.append("the splits")
        if (initial_variables is None) != (self._initial is None):
            differing.append("initial_variables")
        if differing:
            raise ValueError(
                f"programs: got some that were compiled with other values of "
                f"{', '.join(differing)}; expected only the seed to differ."
            )
        programs = copy.copy(self)
        programs._seed(config.seed)
        programs._set_initial(initial_variables)
        programs.feed = self.feed.reseeded(config.seed)
        if splits["train"] is not self._splits["train"]:
            programs._splits = dict(splits)
            feed, train = programs.feed, splits["train"]
            # `_serves` refused all others.
            assert isinstance(feed, ResidentFeed)
            assert isinstance(train, data.Dataset)
            programs.feed = feed.holding(train)
        return programs

    def start(self) -> Carry:
        """Returns the carry before the first step."""
        return self._start(self._keys.parameters, self._initial)

    def step(self, carry: Carry, inputs: Any) -> Carry:
        """Trains on what the feed gave for the step; the carry given is consumed."""
        return self._step(carry, inputs, self._keys.steps)

    def bad_leaf(self, state: TrainState) -> str | None:
        """Returns the path of the first leaf that holds a NaN or an infinity, or None.

        Compiled when it is first asked for, that is before the first checkpoint.
        """
        if self._first_bad is None:
            self._first_bad = self._compile(trees.first_bad_leaf, state)
        number = int(jax.device_get(self._first_bad(state)))
        return None if number < 0 else list(trees.named_leaves(state))[number]

    def gather(self, tree: Any) -> Any:
        """Returns a tree of arrays that this process can read whole."""
        leaves = jax.tree.leaves(tree)
        if all(
            leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves
        ):
            return tree
        # By one function, so that each structure is compiled once.
        return jax.jit(_identity, out_shardings=self._everywhere)(tree)

    def reset(self, carry: Carry, tally: str) -> Carry:
        """Returns the carry with one of its sums, "epoch" or "interval", at zero."""
        return {**carry, tally: self._zero_tally()}

    def evaluate(self, state: TrainState, name: str) -> dict[str, float]:
        """Returns the `evaluation_metrics` of a whole split."""
        sums, totals = self._zero_sums(), []
        for number, batch in enumerate(self._evaluation[name].batches(), start=1):
            sums = self._evaluate(state, batch, sums)
            if number % BATCHES_PER_SUM == 0:
                totals.append(jax.device_get(sums))
                sums = self._zero_sums()
        totals.append(jax.device_get(sums))
        return evaluation_metrics(
            {
                # A float64, or a Python integer's worth of one.
                key: np.sum([total[key] for total in totals], axis=0, dtype=np.float64)
                for key in totals[0]
            }
        )

    @property
    def bad_images(self) -> list[dict[str, str]]:
        """What was skipped so far, of every split, for the result."""
        feeds: tuple[Feed | EvaluationFeed, ...] = (
            self.feed,
            *self._evaluation.values(),
        )
        return [image._asdict() for feed in feeds for image in feed.bad_images]

    def with_evaluated(self, state: TrainState, variables: Any) -> TrainState:
        """Returns the state with host arrays as what is evaluated."""
        where = jax.tree.map(lambda leaf: leaf.sharding, state.evaluated_variables)
        return state.with_evaluated(jax.device_put(variables, where))

    def _serves(self, splits: Mapping[str, data.Source]) -> bool:
        """Whether the programs were compiled for these splits, or for such."""
        if splits.keys() != self._splits.keys() or any(
            split is not self._splits[name]
            for name, split in splits.items()
            if name != "train"
        ):
            return False
        old, new = self._splits["train"], splits["train"]
        return old is new or (
            self._config.mean is not None
            and isinstance(old, data.Dataset)
            and isinstance(new, data.Dataset)
            and (old.images.shape, old.class_names)
            == (new.images.shape, new.class_names)
        )

    def _seed(self, seed: int) -> None:
        self._keys = place_keys(make_keys(seed), self._everywhere)

    def _set_initial(self, variables: Mapping[str, Any] | None) -> None:
        """Puts the variables to start from, if there are any, onto the devices."""
        self._initial = None
        if variables is not None:
            checked = _as_initialized(self._model, variables, self._image)
            self._initial = jax.device_put(checked, self._everywhere)

    def _spread(
        self, start: Callable[..., Carry], mesh: Mesh
    ) -> tuple[Carry, ParallelStep]:
        """Returns the shapes of the carry where it will lie, and the spread step."""
        config = self._config
        shapes = jax.eval_shape(start, self._keys.parameters, self._initial)
        lies = jax.tree.map(lambda leaf: self._everywhere, shapes)
        if sharding.FSDP_AXIS in mesh.shape:
            lies["state"] = sharding.state_shardings(
                shapes["state"],
                mesh,
                rules=[
                    (pattern, sharding.parse_partition(partition))
                    for pattern, partition in config.sharding_rules
                ],
            )
        carry = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=where
            ),
            shapes,
            lies,
        )
        step = make_step(
            functools.partial(
                train_step, **step_options(config, self.steps_per_epoch, self._model)
            ),
            strategy=config.parallel,
            mesh=mesh,
            batch_norm_scope=config.batch_norm_scope,
            state_shardings=lies["state"] if sharding.FSDP_AXIS in mesh.shape else None,
            reduce_dtype=config.reduce_dtype,
        )
        return carry, step

    def _compile(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        donate: Any = (),
        out: Any = None,
        options: dict[str, Any] | None = None,
    ) -> Any:
        program = jax.jit(
            function,
            out_shardings=out or self._everywhere,
            donate_argnums=donate,
            compiler_options=options,
        )
        return program.lower(*arguments).compile()


def _start(key, variables, *, model, optimizer, image, config) -> Carry:
    image = jnp.zeros(image.shape, image.dtype)
    options = {**state_options(config), "variables": variables}
    return {
        "state": TrainState.create(model, optimizer, key, image, **options),
        "epoch": _zero_tally(),
        "interval": _zero_tally(),
        "first_bad_step": jnp.full((), -1, jnp.int32),
        "first_bad_leaf": jnp.full((), -1, jnp.int32),
        "num_skipped": jnp.zeros((), jnp.int32),
        "learning_rate": jnp.zeros((), jnp.float32),
    }


def _as_initialized(
    model: Any, variables: Mapping[str, Any], image: jax.ShapeDtypeStruct
) -> Any:
    """Returns the variables in the tree that `model.init` makes.

    Raises:
      ValueError: Listing all leaves that are missing, unknown or of another kind.
    """
    key = jax.eval_shape(jax.random.key, 0)
    shapes = jax.eval_shape(
        lambda key, image: model.init(key, image, train=False), key, image
    )
    expected, found = trees.leaf_specs(shapes), trees.leaf_specs(variables)
    problems = [
        f"  {path}: got {found.get(path, 'nothing')}, expected "
        f"{expected.get(path, 'no such leaf')}"
        for path in sorted({*expected, *found})
        if expected.get(path) != found.get(path)
    ]
    if problems:
        raise ValueError(
            "initial_variables: got others than the model's:\n" + "\n".join(problems)
        )
    leaves = trees.named_leaves(variables)
    return jax.tree.unflatten(
        jax.tree.structure(shapes), [leaves[path] for path in expected]
    )


def _advance(
    carry: Carry,
    inputs: Any,
    root_key: jax.Array,
    *,
    config: TrainConfig,
    schedule: optax.Schedule,
    cut_batch: Callable[[Any, jax.Array], data.Arrays],
    step: ParallelStep,
    num_classes: int,
    prepare: Callable[[jax.Array], jax.Array],
) -> Carry:
    state = carry["state"]
    # All that is random in a step follows from the root key and the step's number.
    step_key = jax.random.fold_in(root_key, state.step)
    batch = cut_batch(inputs, state.step)
    batch = jax.lax.with_sharding_constraint(batch, step.batch(batch))
    batch, model_key = augment(step_key, batch, config, num_classes, prepare)
    new_state, metrics = step(state, batch, model_key)
    # With a loss scale, gradients that overflow are in order.
    is_bad = ~jnp.isfinite(metrics["loss"])
    if state.loss_scale is None:
        is_bad |= metrics["bad_leaf"] >= 0
    is_first = is_bad & (carry["first_bad_step"] < 0)
    tallied = {
        "loss": metrics["loss"],
        "accuracy": metrics["accuracy"],
        "steps": jnp.ones(()),
        "skipped": metrics["skipped"],
    }
    if config.non_finite == "skip":
        # What was skipped has no part in the means.
        tallied = {
            name: value if name == "skipped" else jnp.where(is_bad, 0.0, value)
            for name, value in tallied.items()
        }
    return {
        "state": new_state,
        "epoch": jax.tree.map(jnp.add, carry["epoch"], tallied),
        "interval": jax.tree.map(jnp.add, carry["interval"], tallied),
        "first_bad_step": jnp.where(is_first, new_state.step, carry["first_bad_step"]),
        "first_bad_leaf": jnp.where(
            is_first, metrics["bad_leaf"], carry["first_bad_leaf"]
        ),
        "num_skipped": carry["num_skipped"] + is_bad.astype(jnp.int32),
        "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
    }


def augment(
    key: jax.Array,
    batch: data.Arrays,
    config: TrainConfig,
    num_classes: int,
    prepare: Callable[[jax.Array], jax.Array],
) -> tuple[data.Arrays, jax.Array]:
    """Changes a batch of uint8 images into what the model gets; traced in the step.

    Args:
      key: The step's key.
      batch: `{"image", "label"}` from the feed.
      config: What is done.
      num_classes: For mixtures of labels.
      prepare: Normalises, see `preparation`.

    Returns:
      The batch, and the key for what the model draws at random.
    """
    crop_key, flip_key, model_key = jax.random.split(key, 3)
    erase_key, mix_key = (jax.random.fold_in(key, number) for number in (3, 4))
    images, labels = batch["image"], batch["label"]
    images = data.random_crop(crop_key, images, config.crop_padding)
    if config.flip:
        images = data.random_flip(flip_key, images)
    images = data.random_erasing(erase_key, prepare(images), config.erasing_probability)
    if config.mixup_alpha or config.cutmix_alpha:
        images, labels = data.mixup_or_cutmix(
            mix_key,
            images,
            data.one_hot_targets(labels, num_classes),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
        )
    return {**batch, "image": images, "label": labels}, model_key


def _evaluate(
    state: TrainState,
    batch: data.Arrays,
    sums: Metrics,
    *,
    prepare: Callable[[jax.Array], jax.Array],
) -> Metrics:
    found = eval_step(state, {**batch, "image": prepare(batch["image"])})
    return {name: sums[name] + value for name, value in found.items()}


def preparation(
    config: TrainConfig, train: data.Source
) -> functools.partial[jax.Array]:
    """Returns what turns uint8 images into normalised ones of the config's dtype."""
    mean, std = channel_statistics(config, train)
    dtype = jnp.dtype(config.dtype)
    return functools.partial(data.normalize, mean=mean, std=std, dtype=dtype)


def _zero_tally() -> Metrics:
    return {name: jnp.zeros(()) for name in ("loss", "accuracy", "steps", "skipped")}


def _identity(tree: Any) -> Any:
    return tree


def _memory_bytes(program: Any) -> int:
    plan = program.memory_analysis()
    if plan is None:
        return 0
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )
