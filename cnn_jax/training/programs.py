"""What runs on the devices: the data that lives there and the compiled programs.

One program takes a batch out of the resident uint8 images, crops, flips, normalises and
trains on it; the host only calls it, and passes nothing in but arrays that are on the
devices already. Everything is compiled ahead of time, so that compilation is timed
apart and a second compilation is an error rather than a pause.

The *carry* is all that changes from step to step, one tree, donated to each step:

    state           the TrainState
    epoch           sums of the metrics since the epoch began
    interval        sums of the metrics since the last log line
    first_bad_step  the first step with a loss that was not finite, or -1
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
from jax.sharding import Mesh, NamedSharding

from cnn_jax import data, sharding
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.optim import make_optimizer, make_schedule
from cnn_jax.training.state import TrainState
from cnn_jax.training.steps import Metrics, eval_step, train_step

Carry = dict[str, Any]


class Programs:
    """The programs of one run over one mesh, with the data they work on.

    Args:
      model: Anything with linen's `init` and `apply`.
      config: The run's configuration.
      splits: The datasets by name: "train", and those to evaluate on.
      mesh: The devices.

    Attributes:
      steps_per_epoch: How many batches an epoch has.
      compile_seconds: What tracing and compiling took.
      peak_memory_bytes: What the training step needs on one device: arguments, results
        and temporaries, as planned by the compiler; 0 where it does not tell.
    """

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        splits: Mapping[str, data.Dataset],
        mesh: Mesh,
    ):
        train = splits["train"]
        self._model, self._config, self._splits = model, config, dict(splits)
        self._everywhere = sharding.replicated(mesh)
        self.steps_per_epoch = data.num_batches(len(train), config.batch_size)
        schedule = make_schedule(config, self.steps_per_epoch)
        optimizer = make_optimizer(config, schedule)
        self._seed(config.seed)
        self._train_data = jax.device_put(
            {"image": train.images, "label": train.labels}, self._everywhere
        )
        padded = {
            name: data.pad_to_batches(split, config.batch_size)
            for name, split in splits.items()
            if name != "train"
        }
        self._num_eval_batches = {
            name: len(arrays["label"]) // config.batch_size
            for name, arrays in padded.items()
        }
        self._eval_data = jax.device_put(padded, self._everywhere)

        started = time.perf_counter()
        image = jax.ShapeDtypeStruct((1, *train.image_shape), jnp.dtype(config.dtype))
        start = functools.partial(_start, model=model, optimizer=optimizer, image=image)
        # Run once, so compiled in a hurry: with every optimisation, XLA's CPU compiler
        # takes half a minute over the random numbers of a deep network.
        in_a_hurry = {"xla_backend_optimization_level": 0}
        self._start = self._compile(
            start,
            self._init_key,
            options=in_a_hurry if mesh.devices.flat[0].platform == "cpu" else None,
        )
        self._zero_tally = self._compile(_zero_tally)
        self._zero_sums = self._compile(_zero_sums)
        self._order = self._compile(
            functools.partial(data.epoch_order, num_examples=len(train)),
            self._order_key,
            self._integer(0),
        )
        prepare = _preparation(config, train)
        split_batch = functools.partial(
            jax.lax.with_sharding_constraint, shardings=sharding.batch_sharded(mesh)
        )
        # Compiling the step needs the carry's shapes, not its values.
        carry = self._abstract(start, self._init_key)
        order = self._abstract(lambda: jnp.zeros(len(train), jnp.int32))
        self._step = self._compile(
            functools.partial(
                _advance,
                config=config,
                schedule=schedule,
                steps_per_epoch=self.steps_per_epoch,
                prepare=prepare,
                split_batch=split_batch,
            ),
            carry,
            self._train_data,
            order,
            self._step_key,
            donate=0,
        )
        self._cut = {
            name: self._compile(
                functools.partial(data.evaluation_batch, batch_size=config.batch_size),
                arrays,
                self._integer(0),
                out=sharding.batch_sharded(mesh),
            )
            for name, arrays in self._eval_data.items()
        }
        # Batches of every split look alike, so one program evaluates them all.
        some = next(iter(self._eval_data))
        self._evaluate = self._compile(
            functools.partial(_evaluate, prepare=prepare),
            carry["state"],
            self._cut[some](self._eval_data[some], self._integer(0)),
            self._zero_sums(),
            donate=2,
        )
        self.compile_seconds = time.perf_counter() - started
        self.peak_memory_bytes = _memory_bytes(self._step)

    def reuse(
        self, model: Any, config: TrainConfig, splits: Mapping[str, data.Dataset]
    ) -> Programs:
        """Returns these programs, compiled once, for a run with another seed.

        Raises:
          ValueError: If more differs than the seed and where the run's files go.
        """
        ignored = dict.fromkeys(("seed", *RESUME_MAY_CHANGE))
        expected, found = (
            {**each.to_dict(), **ignored} for each in (self._config, config)
        )
        differing = [name for name in expected if expected[name] != found[name]]
        if model != self._model:
            differing.append("the model")
        if splits.keys() != self._splits.keys() or any(
            split is not self._splits[name] for name, split in splits.items()
        ):
            differing.append("the splits")
        if differing:
            raise ValueError(
                f"programs: got some that were compiled with other values of "
                f"{', '.join(differing)}; expected only the seed to differ."
            )
        programs = copy.copy(self)
        programs._seed(config.seed)
        return programs

    def start(self) -> Carry:
        """Returns the carry before the first step."""
        return self._start(self._init_key)

    def order(self, epoch: int) -> jax.Array:
        """Returns the order in which an epoch (from 0) visits the training examples."""
        return self._order(self._order_key, self._integer(epoch))

    def step(self, carry: Carry, order: jax.Array) -> Carry:
        """Trains on the next batch; the carry given is consumed."""
        return self._step(carry, self._train_data, order, self._step_key)

    def reset(self, carry: Carry, tally: str) -> Carry:
        """Returns the carry with one of its sums, "epoch" or "interval", at zero."""
        return {**carry, tally: self._zero_tally()}

    def evaluate(self, state: TrainState, name: str) -> dict[str, float]:
        """Returns the mean loss and accuracy over a whole split, and its size."""
        sums = self._zero_sums()
        for _ in range(self._num_eval_batches[name]):
            batch = self._cut[name](self._eval_data[name], sums["batches"])
            sums = self._evaluate(state, batch, sums)
        sums = {key: float(value) for key, value in jax.device_get(sums).items()}
        return {
            "loss": sums["loss"] / sums["count"],
            "accuracy": sums["correct"] / sums["count"],
            "num_examples": int(sums["count"]),
        }

    def put(self, tree: Any) -> Any:
        """Puts a tree of host arrays on every device."""
        return jax.device_put(tree, self._everywhere)

    def _seed(self, seed: int) -> None:
        keys = jax.random.split(jax.random.key(seed), 3)
        self._init_key, self._order_key, self._step_key = map(self.put, keys)

    def _integer(self, value: int) -> jax.Array:
        return self.put(np.int32(value))

    def _abstract(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._everywhere
            ),
            jax.eval_shape(function, *arguments),
        )

    def _compile(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        donate: Any = (),
        out: NamedSharding | None = None,
        options: dict[str, Any] | None = None,
    ) -> Any:
        program = jax.jit(
            function,
            out_shardings=out or self._everywhere,
            donate_argnums=donate,
            compiler_options=options,
        )
        return program.lower(*arguments).compile()


def _start(key, *, model, optimizer, image) -> Carry:
    image = jnp.zeros(image.shape, image.dtype)
    return {
        "state": TrainState.create(model, optimizer, key, image),
        "epoch": _zero_tally(),
        "interval": _zero_tally(),
        "first_bad_step": jnp.full((), -1, jnp.int32),
        "learning_rate": jnp.zeros((), jnp.float32),
    }


def _advance(
    carry: Carry,
    arrays: data.Arrays,
    order: jax.Array,
    root_key: jax.Array,
    *,
    config: TrainConfig,
    schedule: optax.Schedule,
    steps_per_epoch: int,
    prepare: Callable[[jax.Array], jax.Array],
    split_batch: Callable[[data.Arrays], data.Arrays],
) -> Carry:
    state = carry["state"]
    # All that is random in a step follows from the root key and the step's number.
    crop_key, flip_key, model_key = jax.random.split(
        jax.random.fold_in(root_key, state.step), 3
    )
    index = state.step % steps_per_epoch
    batch = split_batch(data.training_batch(arrays, order, index, config.batch_size))
    images = data.random_crop(crop_key, batch["image"], config.crop_padding)
    if config.flip:
        images = data.random_flip(flip_key, images)
    new_state, metrics = train_step(
        state,
        {**batch, "image": prepare(images)},
        model_key,
        label_smoothing=config.label_smoothing,
    )
    first_bad_step = carry["first_bad_step"]
    is_first_bad = (first_bad_step < 0) & ~jnp.isfinite(metrics["loss"])
    return {
        "state": new_state,
        "epoch": _add(carry["epoch"], metrics),
        "interval": _add(carry["interval"], metrics),
        "first_bad_step": jnp.where(is_first_bad, new_state.step, first_bad_step),
        "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
    }


def _evaluate(
    state: TrainState,
    batch: data.Arrays,
    sums: Metrics,
    *,
    prepare: Callable[[jax.Array], jax.Array],
) -> Metrics:
    found = eval_step(state, {**batch, "image": prepare(batch["image"])})
    return {
        "batches": sums["batches"] + 1,
        **{name: sums[name] + value for name, value in found.items()},
    }


def _preparation(
    config: TrainConfig, train: data.Dataset
) -> Callable[[jax.Array], jax.Array]:
    mean, std = config.mean, config.std
    if mean is None:
        mean, std = train.channel_statistics
        # A constant channel has no deviation to divide by; it becomes zero.
        std = tuple(deviation or 1.0 for deviation in std)
    dtype = jnp.dtype(config.dtype)
    return functools.partial(data.normalize, mean=mean, std=std, dtype=dtype)


def _zero_tally() -> Metrics:
    return {name: jnp.zeros(()) for name in ("loss", "accuracy", "steps")}


def _zero_sums() -> Metrics:
    sums = {name: jnp.zeros(()) for name in ("loss", "correct", "count")}
    return {"batches": jnp.zeros((), jnp.int32), **sums}


def _add(tally: Metrics, metrics: Metrics) -> Metrics:
    return {name: tally[name] + metrics.get(name, 1.0) for name in tally}


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
