"""The training loop: what the host does around the compiled step.

It calls the step, and every so often fetches sums from the device: at logging steps,
before a checkpoint, and at the end of an epoch, which is followed by evaluation.

Resuming is exact. What a step does follows from the carry, the data and the seed (see
`cnn_jax.training.run.programs`); the carry, with the sums of the epoch in progress and
the record of early stopping, is in every checkpoint; the place in the data is the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.progress
from jax.sharding import Mesh

from cnn_jax import data, sharding, trees
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices.processes import is_main_process
from cnn_jax.training.run import feeds
from cnn_jax.training.run.checks import (
    check_is_model,
    check_model,
    check_regularizers,
    check_source,
)
from cnn_jax.training.run.directory.identity import described, identify_model
from cnn_jax.training.run.directory.store import Record, Store
from cnn_jax.training.run.programs import Programs
from cnn_jax.training.run.stopping import RunStoppedError, StopNow, StopSignals
from cnn_jax.training.run.timing import StepTrace, Stopwatch, model_flops_utilization
from cnn_jax.training.step.state import TrainState

Hook = Callable[[dict[str, Any], TrainState], None]
"""Called with every record written to `metrics.jsonl` (`record["event"]` is `"step"` or
`"epoch"`) and the state at that step, whose arrays the next step consumes."""


class NonFiniteLossError(ArithmeticError):
    """The loss, a gradient or a parameter became NaN or infinite.

    Attributes:
      step: The first step with such a loss or gradient; the run's first step is 1.
      leaf: The path of the first gradient, or of the first leaf of the state, that is
        not finite; None if only the loss is not.
    """

    def __init__(self, step: int, epoch: int, leaf: str | None, advice: str):
        where = "" if leaf is None else f"; the first leaf that is not: {leaf}"
        super().__init__(
            f"The loss was not finite at step {step} (epoch {epoch}){where}. {advice} "
            "A lower learning rate or a longer warm-up is the usual cure; "
            "non_finite='skip' leaves out the updates of a few such steps."
        )
        self.step: int = step
        self.leaf: str | None = leaf


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult:
    """What a run ended with.

    Attributes:
      state: The final state.
      best_variables: `{"params", "batch_stats"}` that `test` is the score of: those of
        the epoch with the highest validation accuracy (the first of equals), the final
        ones without a validation split. NumPy arrays.
      best_epoch: That epoch, counted from 1; the last without a validation split.
      test: The `evaluation_metrics` of `best_variables`.
      history: One record per epoch: epoch, step, train_loss and train_accuracy (means
        over the epoch, while it was trained), train_skipped_steps where steps may be
        skipped, the `evaluation_metrics` of the validation split, if there is one, and
        of the test split (validation_loss, test_top5_accuracy, ...), learning_rate, and
        the training's seconds, images_per_second and waiting_share so far.
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

    def __repr__(self) -> str:
        test = ", ".join(f"{name} {value:.6g}" for name, value in self.test.items())
        early = ", stopped early" if self.stopped_early else ""
        return (
            f"FitResult(test: {test}; epoch {self.best_epoch} of {len(self.history)}"
            f"{early}; {self.train_seconds:.1f} s of training; run_dir "
            f"{self.run_dir!r})"
        )

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
        only describe what the other arguments already are. What is recorded is what
        these are: the model's registered name, else the qualified name of its class
        unless `config.model` is a name of the caller's own, and the data's name.
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
      ValueError: If an argument is of another kind, the model does not make logits for
        the classes of these images, or has not the regularisers of the configuration;
        if the configuration, the splits and the mesh do not fit together, or
        what is resumed was made with another configuration or dataset
        (`ResumeRefusedError`); raised before anything is compiled.
      FileExistsError: If `run_dir` holds a run and `config.resume` is False.
      NonFiniteLossError: If the loss or a gradient became NaN or infinite, with
        `config.non_finite` "skip" more often than `maximum_skipped_steps`.
      RunStoppedError: If SIGTERM or SIGINT came; the run is saved. See
        `cnn_jax.training.run.stopping`; without a `run_dir` signals do what they do.
      CheckpointError, OSError: If the run directory cannot be written, or what is to be
        resumed is damaged.
    """
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"config: got a {type(config).__name__}, expected a TrainConfig: "
            "fit(model, config, train, test)."
        )
    config.validate()
    check_is_model(model)
    given = {"train": train, "test": test, "validation": validation}
    for name, split in given.items():
        if split is not None or name != "validation":
            check_source(name, split)
    check_regularizers(model, config)
    identity, configured = identify_model(model, config.model), config
    config = described(config, identity, train, test)
    if config.validation_fraction and validation is not None:
        raise ValueError("validation: given, while validation_fraction is not 0.")
    if config.validation_fraction:
        fraction, seed = config.validation_fraction, config.seed
        if isinstance(train, data.Dataset):
            train, validation = train.split_off(fraction, seed)
        else:
            train, validation = data.hold_out(train, fraction, seed)
    given = {"train": train, "validation": validation, "test": test}
    splits = {name: split for name, split in given.items() if split is not None}
    _check_splits(config, splits)
    if mesh is None:
        mesh = sharding.make_mesh(specification=config.mesh)
    mesh = sharding.with_automatic_axes(mesh)
    sharding.check_batch_size(config.batch_size, mesh)
    if programs is None:
        check_model(
            model,
            feeds.image_shape(config, train),
            len(train.class_names),
            config.dtype,
        )

    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.own_mesh(mesh))
        store: Store | None = None
        signals = StopSignals()
        if config.run_dir is not None:
            store = stack.enter_context(Store(config, splits, identity, configured))
            # Without a directory there is nothing to save.
            stack.enter_context(signals)
        if programs is None:
            programs = Programs(model, config, splits, mesh, initial_variables)
        else:
            programs = programs.reuse(model, config, splits, initial_variables)
        stack.callback(programs.feed.close)
        run = _Run(programs, config, splits, store, signals, hooks, macs_per_example)
        stack.callback(run.trace.close)
        run.begin()
        try:
            with _progress_bar(run.num_steps, shown=progress) as run.show:
                run.train()
            return run.finish()
        except StopNow:
            run.stop()
            # Without a directory no signal ends up here.
            assert store is not None
            assert config.run_dir is not None
            store.close()
            raise RunStoppedError(
                signals.name, run.step, run.num_steps, config.run_dir
            ) from None


class _Run:
    """One run: where it stands, and how it gets on."""

    def __init__(
        self,
        programs: Programs,
        config: TrainConfig,
        splits: Mapping[str, data.Source],
        store: Store | None,
        signals: StopSignals,
        hooks: Sequence[Hook],
        macs_per_example: int | None,
    ):
        self.programs = programs
        self.config = config
        self.evaluated = [name for name in splits if name != "train"]
        self.store = store
        self.signals = signals
        self.hooks = hooks
        self.num_steps = config.epochs * programs.steps_per_epoch
        self.step = 0
        self.record = Record()
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
        self.store.open(self.step, self.record)

    def train(self) -> None:
        """Trains until the epochs are over or patience has run out."""
        # An epoch is over when it is evaluated.
        while (epoch := len(self.record.history)) < self.config.epochs:
            if self.record.stopped_early:
                break
            self._train_epoch(epoch)
            self._end_epoch(epoch)

    def stop(self) -> None:
        """Saves the run where it stands."""
        self._fetch()
        self._save()

    def finish(self) -> FitResult:
        """Evaluates the chosen parameters and sums the run up."""
        state = self.carry["state"]
        digest = trees.digest(self.programs.gather(state))
        if self.best_variables is None:
            self.best_variables = self._read(state.evaluated_variables)
        best_state = self.programs.with_evaluated(state, self.best_variables)
        record = self.record
        images_per_second = self.step * self.config.batch_size / record.train_seconds
        step_seconds = self.watch.step_seconds()
        result = FitResult(
            state=state,
            best_variables=self.best_variables,
            best_epoch=record.best_epoch or len(record.history),
            test=self._evaluate(best_state, "test"),
            history=record.history,
            stopped_early=record.stopped_early,
            compile_seconds=self.programs.compile_seconds,
            train_seconds=record.train_seconds,
            step_seconds_median=step_seconds["median"],
            step_seconds_p90=step_seconds["p90"],
            step_seconds_p99=step_seconds["p99"],
            waiting_share=self.watch.waiting_share,
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
        if self.step == last:
            return
        # The epoch's order, or a stream's first batches, is not a step's time.
        inputs = self._next_inputs()
        jax.block_until_ready((inputs, self.carry))
        self.watch.start(self.step)
        while self.step < last:
            self.trace.at(self.step, self.carry)
            self.carry = self.programs.step(self.carry, inputs)
            self.step += 1
            is_logged = self.step % self.config.log_every_steps == 0
            if is_logged or self.step == last:
                self._log(epoch)
            if every and self.step % every == 0 and self.step < last:
                self._fetch()
                self._save()
            if is_logged:
                self.signals.check_together()
            if self.step < last:
                inputs = self._next_inputs()

    def _next_inputs(self) -> Any:
        with self.signals.interrupting():
            return self.programs.feed.inputs(self.step)

    def _log(self, epoch: int) -> None:
        loss_scale = self.carry["state"].loss_scale
        interval, learning_rate, scale = self._fetch(
            self.carry["interval"],
            self.carry["learning_rate"],
            None if loss_scale is None else loss_scale.value,
        )
        self.carry = self.programs.reset(self.carry, "interval")
        values = {
            "step": self.step,
            "epoch": epoch + 1,
            **self._means(interval),
            "learning_rate": float(learning_rate),
        }
        if scale is not None:
            values["loss_scale"] = float(scale)
        self._report("step", values)
        self.show(
            self.step,
            f"epoch {epoch + 1}/{self.config.epochs}  loss {values['loss']:.4f}",
        )

    def _means(self, tally: Mapping[str, Any]) -> dict[str, float]:
        """Returns what a tally says of its steps; NaN if all of them were skipped."""
        steps = float(tally["steps"]) or math.nan
        means = {name: float(tally[name]) / steps for name in ("loss", "accuracy")}
        if self.config.non_finite == "skip" or self.config.dtype == "float16":
            means["skipped_steps"] = int(tally["skipped"])
        return means

    def _end_epoch(self, epoch: int) -> None:
        if self.record.trained is None:
            self.record.trained = self._close_epoch()
        values: dict[str, float] = {"epoch": epoch + 1, "step": self.step}
        trained = dict(self.record.trained)
        learning_rate = trained.pop("learning_rate")
        values |= {f"train_{name}": value for name, value in trained.items()}
        for name in self.evaluated:
            found = self._evaluate(self.carry["state"], name)
            del found["num_examples"]
            values |= {f"{name}_{metric}": value for metric, value in found.items()}
        values["learning_rate"] = learning_rate
        values |= self._clocked()
        self.record.history.append(values)
        self.record.epoch_seconds, self.record.trained = 0.0, None
        if self.validates:
            self._judge(values)
        self._report("epoch", values)
        ends_run = self.step == self.num_steps or self.record.stopped_early
        is_best = self.record.best_step == self.step
        every = self.config.checkpoint_every_steps
        is_due = not every or self.step % every == 0
        if is_due or ends_run or is_best:
            self._save()
        self.signals.check_together()

    def _close_epoch(self) -> dict[str, float]:
        """Returns what the epoch's steps say, and sets their sums back."""
        tally, learning_rate = self._fetch(
            self.carry["epoch"], self.carry["learning_rate"]
        )
        self.carry = self.programs.reset(self.carry, "epoch")
        return {**self._means(tally), "learning_rate": float(learning_rate)}

    def _clocked(self) -> dict[str, float]:
        """Returns what the clock says of the epoch, of all its parts if it was resumed.

        The share of waiting is this process's.
        """
        seconds = self.record.epoch_seconds
        images = self.programs.steps_per_epoch * self.config.batch_size
        return {
            "seconds": seconds,
            "images_per_second": images / seconds,
            "waiting_share": self.watch.waiting_share,
        }

    def _evaluate(self, state: TrainState, name: str) -> dict[str, float]:
        with self.signals.interrupting():
            return self.programs.evaluate(state, name)

    def _judge(self, values: Mapping[str, float]) -> None:
        """Keeps the best parameters, and decides whether to go on."""
        record, config = self.record, self.config
        accuracy = values["validation_accuracy"]
        if accuracy > record.best_accuracy:
            record.best_accuracy = accuracy
            record.best_epoch, record.best_step = int(values["epoch"]), self.step
            state = self.carry["state"]
            self.best_variables = self._read(state.evaluated_variables)
        if accuracy > record.target + config.minimum_gain:
            record.target = accuracy
            record.epochs_without_gain = 0
        else:
            record.epochs_without_gain += 1
        if config.patience is not None:
            record.stopped_early = record.epochs_without_gain >= config.patience

    def _fetch(self, *arrays: Any) -> list[Any]:
        """Waits for the device, fetches parts of the carry, and stops a broken run."""
        names = ("first_bad_step", "first_bad_leaf", "num_skipped")
        (step, leaf, num_skipped), values = jax.device_get(
            ([self.carry[name] for name in names], list(arrays))
        )
        seconds = self.watch.stop(self.step)
        self.record.train_seconds += seconds
        self.record.epoch_seconds += seconds
        may_skip = 0
        if self.config.non_finite == "skip":
            may_skip = self.config.maximum_skipped_steps
        if num_skipped > may_skip:
            paths = list(trees.named_leaves(self.carry["state"].params))
            self._refuse_numbers(int(step), None if leaf < 0 else paths[leaf])
        return values

    def _read(self, variables: Any) -> Any:
        return jax.device_get(self.programs.gather(variables))

    def _refuse_numbers(self, step: int, leaf: str | None) -> None:
        latest = self.store.checkpoints.latest_step if self.store else None
        raise NonFiniteLossError(
            step,
            1 + (step - 1) // self.programs.steps_per_epoch,
            leaf,
            "There is no checkpoint from before."
            if latest is None
            else f"The last checkpoint, of step {latest}, is from before.",
        )

    def _report(self, event: str, values: dict[str, float]) -> None:
        if self.store is not None:
            self.store.files.record(event, values)
        for hook in self.hooks:
            hook({"event": event, **values}, self.carry["state"])

    def _save(self) -> None:
        if self.store is None:
            return
        # The loss was that before the last update, which may have broken the numbers.
        leaf = self.programs.bad_leaf(self.carry["state"])
        if leaf is not None:
            self._refuse_numbers(self.step, leaf)
        epoch, batch = data.locate(self.step, self.programs.steps_per_epoch)
        position = {"epoch": epoch, "batch": batch}
        self.store.save(self.step, self.carry, self.record, position)

    def _restore_best(self) -> None:
        if self.record.best_epoch:
            assert self.store is not None  # what was restored was stored
            _, carry, _ = self.store.restore(self.carry, self.record.best_step)
            self.best_variables = self._read(carry["state"].evaluated_variables)


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
        disable=not (shown and is_main_process() and sys.stderr.isatty()),
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
    if is_main_process():
        print(text, file=sys.stderr, flush=True)
