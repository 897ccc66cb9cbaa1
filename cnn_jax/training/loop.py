"""The training loop: what the host does around the compiled step.

It calls the step, and every so often fetches sums from the device: at logging steps,
before a checkpoint, and at the end of an epoch, which is followed by evaluation.

Resuming is exact. What a step does follows from the carry, the data and the seed (see
`cnn_jax.training.programs`); the carry, with the sums of the epoch in progress and the
record of early stopping, is in every checkpoint; the place in the data is the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.progress
from jax.sharding import Mesh

from cnn_jax import checkpoint, data, sharding, trees
from cnn_jax.training import feeds
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.programs import Carry, Programs
from cnn_jax.training.records import RunFiles
from cnn_jax.training.speed import StepTrace, Stopwatch, model_flops_utilization
from cnn_jax.training.state import TrainState

Hook = Callable[[dict[str, Any], TrainState], None]
"""Called with every record written to `metrics.jsonl` (`record["event"]` is `"step"` or
`"epoch"`) and the state at that step, whose arrays the next step consumes."""


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite.

    Attributes:
      step: The first step with such a loss; the run's first step is 1.
    """

    def __init__(self, step: int, epoch: int, advice: str):
        super().__init__(
            f"The loss was not finite at step {step} (epoch {epoch}). {advice} A lower "
            "learning rate or a longer warm-up is the usual cure."
        )
        self.step = step


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run ended with.

    Attributes:
      state: The final state.
      best_variables: `{"params", "batch_stats"}` that `test` is the score of: those of
        the epoch with the highest validation accuracy (the first of equals), the final
        ones without a validation split. NumPy arrays.
      best_epoch: That epoch, counted from 1; the last without a validation split.
      test: The `evaluation_metrics` of `best_variables`.
      history: One record per epoch: epoch, step, train_loss, train_accuracy (both means
        over the epoch, while it was trained), validation_loss and validation_accuracy
        with a validation split, test_loss, test_accuracy, learning_rate, seconds.
      stopped_early: Whether patience ran out before the epochs did.
      compile_seconds: Tracing and compiling of the training and evaluation programs,
        once for all the runs that share them.
      train_seconds: Wall time of the training steps, with logging and checkpoints
        inside epochs, without compilation and evaluation; of resumed runs, the time
        that led to the result.
      step_seconds_median: Median over logging intervals of the mean time of a step; NaN
        if this process trained no step.
      step_seconds_p90: The 90th percentile of the same.
      step_seconds_p99: The 99th percentile.
      waiting_share: The part of this process's training time that was spent waiting
        for data.
      images_per_second: Training images over `train_seconds`.
      flops_utilization: The share of the devices' peak that the model's own arithmetic
        takes, or None; see `speed.model_flops_utilization`.
      bad_images: `{"origin", "reason"}` of every image of a stream that was skipped.
      peak_memory_bytes: What the compiled training step needs on one device (arguments,
        the dataset among them, results and temporaries), as planned by the compiler; 0
        where it does not tell.
      state_digest: `cnn_jax.trees.digest` of the final state.
      run_dir: Where the files are, or None.
    """

    state: TrainState
    best_variables: dict[str, Any]
    best_epoch: int
    test: dict[str, float]
    history: list[dict[str, float]]
    stopped_early: bool
    compile_seconds: float
    train_seconds: float
    step_seconds_median: float
    step_seconds_p90: float
    step_seconds_p99: float
    waiting_share: float
    images_per_second: float
    flops_utilization: float | None
    bad_images: list[dict[str, str]]
    peak_memory_bytes: int
    state_digest: str
    run_dir: str | None

    def summary(self) -> dict[str, Any]:
        """Returns everything but the arrays, as a mapping that JSON can hold."""
        arrays = ("state", "best_variables")
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in arrays
        }


def fit(
    model: Any,
    config: TrainConfig,
    train: data.Source,
    test: data.Source,
    *,
    validation: data.Source | None = None,
    progress: bool = True,
    hooks: Sequence[Hook] = (),
    mesh: Mesh | None = None,
    programs: Programs | None = None,
    initial_variables: Mapping[str, Any] | None = None,
    macs_per_example: int | None = None,
) -> FitResult:
    """Trains a model.

    Args:
      model: Anything with linen's `init` and `apply`; `apply(variables, images,
        train=...)` returns logits.
      config: The run's configuration. `model`, `dataset`, `data_dir` and `image_size`
        only describe what the other arguments already are.
      train: The training split: a `Dataset` lives on the devices, any other source is
        streamed from.
      test: The test split: evaluated and reported, never used for a decision.
      validation: What early stopping goes by; when None, the part of `train` that
        `config.validation_fraction` says is held out.
      progress: Whether to show a progress bar, if the terminal can.
      hooks: Functions called with every record.
      mesh: The devices to train on; when None, all of them on `config.mesh`.
      programs: Programs compiled on this mesh for a run that differs in nothing that
        `Programs.reuse` refuses; when None, they are compiled here.
      initial_variables: `{"params", "batch_stats"}` to start from, of the tree, shapes
        and dtypes that `model.init` gives; when None, what that draws. A resumed run
        goes on from its checkpoint.
      macs_per_example: Multiply-adds of a forward pass, for `flops_utilization`.

    Returns:
      The result. With `config.run_dir`, everything but arrays is also in `result.json`.

    Raises:
      ValueError: If the configuration, the splits and the mesh do not fit together, or
        what is resumed was made with another configuration or dataset
        (`ResumeRefusedError`); raised before anything is compiled.
      FileExistsError: If `run_dir` holds a run and `config.resume` is False.
      NonFiniteLossError: If the loss became NaN or infinite.
    """
    config.validate()
    if config.validation_fraction and validation is not None:
        raise ValueError("validation: given, while validation_fraction is not 0.")
    if config.validation_fraction:
        hold_out = (
            data.Dataset.split_off if isinstance(train, data.Dataset) else data.hold_out
        )
        train, validation = hold_out(train, config.validation_fraction, config.seed)
    splits = {"train": train, "validation": validation, "test": test}
    splits = {name: split for name, split in splits.items() if split is not None}
    _check_splits(config, splits)
    mesh = sharding.make_mesh(specification=config.mesh) if mesh is None else mesh
    sharding.check_batch_size(config.batch_size, mesh)
    if config.run_dir is not None and jax.process_count() > 1:
        raise ValueError(
            f"run_dir: got {config.run_dir!r} in a run of {jax.process_count()} "
            "processes, whose checkpoints are not written yet; expected None."
        )

    with contextlib.ExitStack() as stack:
        store = None
        if config.run_dir is not None:
            files = stack.enter_context(RunFiles(config.run_dir, resume=config.resume))
            store = _Store(files, stack, config, splits)
        if programs is None:
            programs = Programs(model, config, splits, mesh, initial_variables)
        else:
            programs = programs.reuse(model, config, splits, initial_variables)
        stack.callback(programs.feed.close)
        run = _Run(programs, config, splits, store, hooks, macs_per_example)
        stack.callback(run.trace.close)
        run.begin()
        with _progress_bar(run.num_steps, shown=progress) as run.show:
            run.train()
        return run.finish()


@dataclasses.dataclass
class _Record:
    """What a run remembers beside its arrays; JSON in every checkpoint.

    `target` is the accuracy that the next gain is measured from: with a minimum gain,
    a best epoch that gained too little does not move it.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    target: float = -1.0
    epochs_without_gain: int = 0
    stopped_early: bool = False
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0


class _Store:
    """The run directory with its checkpoints."""

    def __init__(
        self,
        files: RunFiles,
        stack: contextlib.ExitStack,
        config: TrainConfig,
        splits: Mapping[str, data.Source],
    ):
        self.files = files
        self.checkpoints = stack.enter_context(
            checkpoint.Checkpointer(files.checkpoints, keep=config.keep_checkpoints)
        )
        self._description = {
            "config": config.to_dict(),
            "dataset": {name: split.fingerprint for name, split in splits.items()},
            "versions": checkpoint.installed_versions(),
        }
        self._refuse_if_changed()

    def restore(
        self, template: Carry, step: int | None = None
    ) -> tuple[int, Carry, _Record]:
        """Returns step, carry and record of a checkpoint, the newest sound by default.

        Raises:
          FileNotFoundError: If there is none.
        """
        found = self.checkpoints.restore(template, step=step)
        return found.step, found.tree, _Record(**found.metadata["record"])

    def save(
        self, step: int, carry: Carry, record: _Record, position: Mapping[str, int]
    ) -> None:
        """Saves a checkpoint; at the end of an epoch it counts for being the best."""
        accuracy = None
        if record.history and record.history[-1]["step"] == step:
            accuracy = record.history[-1].get("validation_accuracy")
        self.checkpoints.save(
            step,
            carry,
            {
                **self._description,
                "position": dict(position),
                "record": dataclasses.asdict(record),
            },
            metric=accuracy,
        )

    def open(self, step: int) -> None:
        """Starts writing the run's files behind a step."""
        self.files.open(self._description, step=step)

    def _refuse_if_changed(self) -> None:
        try:
            saved = self.checkpoints.metadata()
        except FileNotFoundError:
            return
        for what, may_change in (("config", RESUME_MAY_CHANGE), ("dataset", ())):
            checkpoint.check_unchanged(
                what, saved[what], self._description[what], may_change=may_change
            )


class _Run:
    """One run: where it stands, and how it gets on."""

    def __init__(
        self,
        programs: Programs,
        config: TrainConfig,
        splits: Mapping[str, data.Source],
        store: _Store | None,
        hooks: Sequence[Hook],
        macs_per_example: int | None,
    ):
        self.programs = programs
        self.config = config
        self.evaluated = [name for name in splits if name != "train"]
        self.store = store
        self.hooks = hooks
        self.num_steps = config.epochs * programs.steps_per_epoch
        self.step = 0
        self.record = _Record()
        self.best_variables: dict[str, Any] | None = None
        self.macs_per_example = macs_per_example
        self.watch = Stopwatch(lambda: programs.feed.waited_seconds)
        self.trace = StepTrace(config.profile_steps, config.run_dir)
        self.show: Callable[[int, str], None]

    def begin(self) -> None:
        """Starts from the newest checkpoint, or from scratch."""
        self.carry = self.programs.start()
        if self.store is None:
            return
        try:
            self.step, self.carry, self.record = self.store.restore(self.carry)
        except FileNotFoundError:
            if self.config.resume:
                _say(f"No checkpoint in {self.config.run_dir}: starting from scratch.")
        else:
            self._restore_best()
            _say(f"Resuming at step {self.step} of {self.num_steps}.")
        self.store.open(self.step)

    def train(self) -> None:
        """Trains until the epochs are over or patience has run out."""
        while self.step < self.num_steps and not self.record.stopped_early:
            epoch, _ = data.locate(self.step, self.programs.steps_per_epoch)
            self._train_epoch(epoch)
            self._end_epoch(epoch)

    def finish(self) -> FitResult:
        """Evaluates the chosen parameters and sums the run up."""
        state = self.carry["state"]
        digest = trees.digest(state)
        if self.best_variables is None:
            self.best_variables = jax.device_get(state.evaluated_variables)
        best_state = self.programs.with_evaluated(state, self.best_variables)
        record = self.record
        images_per_second = self.step * self.config.batch_size / record.train_seconds
        step_seconds = self.watch.step_seconds()
        result = FitResult(
            state=state,
            best_variables=self.best_variables,
            best_epoch=record.best_epoch or len(record.history),
            test=self.programs.evaluate(best_state, "test"),
            history=record.history,
            stopped_early=record.stopped_early,
            compile_seconds=self.programs.compile_seconds,
            train_seconds=record.train_seconds,
            step_seconds_median=step_seconds["median"],
            step_seconds_p90=step_seconds["p90"],
            step_seconds_p99=step_seconds["p99"],
            waiting_share=self.watch.waited_seconds / max(self.watch.seconds, 1e-9),
            images_per_second=images_per_second,
            flops_utilization=model_flops_utilization(
                self.macs_per_example, images_per_second, self.programs.devices
            ),
            bad_images=self.programs.bad_images,
            peak_memory_bytes=self.programs.peak_memory_bytes,
            state_digest=digest,
            run_dir=self.config.run_dir,
        )
        if self.store is not None:
            self.store.files.write_json("result.json", result.summary())
        return result

    @property
    def validates(self) -> bool:
        """Whether a validation split chooses the parameters to report."""
        return "validation" in self.evaluated

    def _train_epoch(self, epoch: int) -> None:
        last = (epoch + 1) * self.programs.steps_per_epoch
        every = self.config.checkpoint_every_steps
        # The epoch's order, or a stream's first batches, is not a step's time.
        inputs = self.programs.feed.inputs(self.step)
        jax.block_until_ready((inputs, self.carry))
        self.watch.start(self.step)
        while self.step < last:
            self.trace.at(self.step, self.carry)
            self.carry = self.programs.step(self.carry, inputs)
            self.step += 1
            if self.step % self.config.log_every_steps == 0 or self.step == last:
                self._log(epoch)
            if every and self.step % every == 0 and self.step < last:
                self._fetch()
                self._save()
            if self.step < last:
                inputs = self.programs.feed.inputs(self.step)

    def _log(self, epoch: int) -> None:
        interval, learning_rate = self._fetch("interval", "learning_rate")
        self.carry = self.programs.reset(self.carry, "interval")
        values = {
            "step": self.step,
            "epoch": epoch + 1,
            "loss": float(interval["loss"] / interval["steps"]),
            "accuracy": float(interval["accuracy"] / interval["steps"]),
            "learning_rate": float(learning_rate),
        }
        self._report("step", values)
        self.show(
            self.step,
            f"epoch {epoch + 1}/{self.config.epochs}  loss {values['loss']:.4f}",
        )

    def _end_epoch(self, epoch: int) -> None:
        tally, learning_rate = self._fetch("epoch", "learning_rate")
        values = {
            "epoch": epoch + 1,
            "step": self.step,
            "train_loss": float(tally["loss"] / tally["steps"]),
            "train_accuracy": float(tally["accuracy"] / tally["steps"]),
        }
        for name in self.evaluated:
            found = self.programs.evaluate(self.carry["state"], name)
            values[f"{name}_loss"] = found["loss"]
            values[f"{name}_accuracy"] = found["accuracy"]
        values["learning_rate"] = float(learning_rate)
        values["seconds"] = self.record.epoch_seconds
        self.record.history.append(values)
        self.record.epoch_seconds = 0.0
        self.carry = self.programs.reset(self.carry, "epoch")
        if self.validates:
            self._judge(values)
        self._report("epoch", values)
        ends_run = self.step == self.num_steps or self.record.stopped_early
        is_best = self.record.best_step == self.step
        if not self.config.checkpoint_every_steps or ends_run or is_best:
            self._save()

    def _judge(self, values: Mapping[str, float]) -> None:
        """Keeps the best parameters, and decides whether to go on."""
        record, config = self.record, self.config
        accuracy = values["validation_accuracy"]
        if accuracy > record.best_accuracy:
            record.best_accuracy = accuracy
            record.best_epoch, record.best_step = values["epoch"], self.step
            state = self.carry["state"]
            self.best_variables = jax.device_get(state.evaluated_variables)
        if accuracy > record.target + config.minimum_gain:
            record.target = accuracy
            record.epochs_without_gain = 0
        else:
            record.epochs_without_gain += 1
        if config.patience is not None:
            record.stopped_early = record.epochs_without_gain >= config.patience

    def _fetch(self, *names: str) -> list[Any]:
        """Waits for the device, fetches parts of the carry, and stops a broken run."""
        first_bad_step, *values = jax.device_get(
            [self.carry[name] for name in ("first_bad_step", *names)]
        )
        seconds = self.watch.stop(self.step)
        self.record.train_seconds += seconds
        self.record.epoch_seconds += seconds
        if first_bad_step >= 0:
            raise NonFiniteLossError(
                int(first_bad_step),
                1 + (int(first_bad_step) - 1) // self.programs.steps_per_epoch,
                self._last_sound_checkpoint(),
            )
        return values

    def _last_sound_checkpoint(self) -> str:
        latest = self.store.checkpoints.latest_step if self.store else None
        if latest is None:
            return "There is no checkpoint from before."
        return f"The last checkpoint, of step {latest}, is from before."

    def _report(self, event: str, values: dict[str, float]) -> None:
        if self.store is not None:
            self.store.files.record(event, values)
        for hook in self.hooks:
            hook({"event": event, **values}, self.carry["state"])

    def _save(self) -> None:
        if self.store is not None:
            epoch, batch = data.locate(self.step, self.programs.steps_per_epoch)
            position = {"epoch": epoch, "batch": batch}
            self.store.save(self.step, self.carry, self.record, position)

    def _restore_best(self) -> None:
        if self.record.best_epoch:
            _, carry, _ = self.store.restore(self.carry, self.record.best_step)
            self.best_variables = jax.device_get(carry["state"].evaluated_variables)


@contextlib.contextmanager
def _progress_bar(
    num_steps: int, *, shown: bool
) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar with the time left; yields what moves it."""
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
    )
    with bar:
        task = bar.add_task("starting", total=num_steps)
        yield lambda step, text: bar.update(task, completed=step, description=text)


def _check_splits(config: TrainConfig, splits: Mapping[str, data.Source]) -> None:
    shapes = {name: feeds.image_shape(config, split) for name, split in splits.items()}
    train = splits["train"]
    for name, split in splits.items():
        if (shapes[name], split.class_names) != (shapes["train"], train.class_names):
            raise ValueError(
                f"{name}: got images {shapes[name]} of {len(split.class_names)} "
                f"classes, expected the training split's {shapes['train']} of "
                f"{len(train.class_names)}, under the same names."
            )
    if config.patience is not None and "validation" not in splits:
        raise ValueError(
            f"patience: got {config.patience} without a validation split; expected "
            "validation_fraction above 0, since the test split decides nothing."
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
