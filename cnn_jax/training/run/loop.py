"""The training loop: what the host does around the compiled step.

It calls the step, and every so often fetches sums from the device: at logging steps,
before a checkpoint, and at the end of an epoch, which is followed by evaluation.

Resuming is exact. What a step does follows from the carry, the data and the seed (see
`cnn_jax.training.run.compiled`); the carry, with the sums of the epoch in progress and
the progress of early stopping, is in every checkpoint; the place in the data is the
step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from cnn_jax import data, messages, trees
from cnn_jax.allocator import keeps_memory
from cnn_jax.training.devices.processes import is_main_process
from cnn_jax.training.run.build import RunParts
from cnn_jax.training.run.compiled import CompiledRun, means_of, place_evaluated
from cnn_jax.training.run.directory.store import Store
from cnn_jax.training.run.early_stopping import RunProgress
from cnn_jax.training.run.result import FitResult, NonFiniteLossError
from cnn_jax.training.run.stopping import StopSignals
from cnn_jax.training.run.timing import (
    StepTrace,
    Stopwatch,
    model_flops_utilization,
    progress_bar,
)
from cnn_jax.training.step.state import TrainState

Callback = Callable[[dict[str, Any], TrainState], None]
"""Called with every line written to `metrics.jsonl` (`line["event"]` is `"step"` or
`"epoch"`) and the state at that step, whose arrays the next step consumes."""


class Loop:
    """The host's part of one run.

    Args:
      parts: What the run is made of.
      compiled: Its programs.
      store: The run directory; None without one.
      signals: Those that stop the run.
      callbacks: Functions called with every line of metrics.
      macs_per_example: Multiply-adds of a forward pass, or None.
    """

    def __init__(
        self,
        parts: RunParts,
        compiled: CompiledRun,
        store: Store | None,
        signals: StopSignals,
        callbacks: Sequence[Callback],
        macs_per_example: int | None,
    ):
        self._parts, self._compiled, self._config = parts, compiled, parts.config
        self._store, self._signals, self._callbacks = store, signals, callbacks
        self._macs_per_example = macs_per_example
        self.num_steps: int = parts.config.epochs * parts.steps_per_epoch
        self.step: int = 0
        self._first_step = 0
        self._progress = RunProgress()
        self._best_variables: dict[str, Any] | None = None
        self._watch = Stopwatch(lambda: parts.feed.waited_seconds)
        self._trace = StepTrace(parts.config.profile_steps, parts.config.run_dir)
        self._show: Callable[[int, str], None] = lambda step, text: None

    def begin(self) -> None:
        """Starts from the newest checkpoint, or from scratch."""
        parts = self._parts
        self._carry = self._compiled.start(parts.keys.parameters, parts.initial)
        if self._store is None:
            return
        try:
            self.step, self._carry, self._progress = self._store.restore(self._carry)
        except FileNotFoundError:
            if self._config.resume:
                _say(f"No checkpoint in {self._config.run_dir}: starting from scratch.")
        else:
            self._restore_best()
            self._first_step = self.step
            _say(f"Resuming at step {self.step} of {self.num_steps}.")
        self._store.open(self.step, self._progress)

    def train(self, *, show_progress: bool) -> None:
        """Trains until the epochs are over or patience has run out."""
        with progress_bar(self.num_steps, shown=show_progress) as self._show:
            # An epoch is over when it is evaluated.
            while (epoch := len(self._progress.history)) < self._config.epochs:
                if self._progress.stopped_early:
                    break
                self._train_epoch(epoch)
                self._end_epoch(epoch)

    def save(self) -> None:
        """Saves the run where it is."""
        self._fetch()
        self._save()

    def close(self) -> None:
        """Ends what is still running beside the loop."""
        self._trace.close()

    def finish(self, *, interrupted: bool = False) -> FitResult:
        """Evaluates the chosen parameters and sums the run up."""
        if interrupted:
            self._fetch()
        state, progress = self._carry["state"], self._progress
        digest = trees.digest(self._compiled.gather(state))
        if self._best_variables is None:
            self._best_variables = self._read(state.evaluated_variables)
        test = None
        if "test" in self._parts.evaluation:
            best_state = place_evaluated(state, self._best_variables)
            test = self._evaluate(best_state, "test")
        images_per_second = (
            self.step * self._config.batch_size / max(progress.train_seconds, 1e-9)
        )
        step_seconds = self._watch.step_seconds()
        result = FitResult(
            state=state,
            best_variables=self._best_variables,
            best_epoch=progress.best_epoch or len(progress.history),
            test=test,
            history=progress.history,
            stopped_early=progress.stopped_early,
            interrupted=interrupted,
            compile_seconds=self._compiled.compile_seconds,
            train_seconds=progress.train_seconds,
            step_seconds_median=step_seconds["median"],
            step_seconds_p90=step_seconds["p90"],
            step_seconds_p99=step_seconds["p99"],
            waiting_share=self._watch.waiting_share,
            images_per_second=images_per_second,
            flops_utilization=model_flops_utilization(
                self._macs_per_example, images_per_second, self._compiled.devices
            ),
            bad_images=self._parts.bad_images,
            images=self._parts.images.to_dict(),
            peak_memory_bytes=self._compiled.peak_memory_bytes,
            state_digest=digest,
            run_dir=self._config.run_dir,
            keeps_memory=keeps_memory(),
        )
        if self._store is not None:
            has_trained = self.step > self._first_step
            return self._store.conclude(result, has_trained=has_trained)
        return result

    def _train_epoch(self, epoch: int) -> None:
        last = (epoch + 1) * self._parts.steps_per_epoch
        every = self._config.checkpoint_every_steps
        if self.step == last:
            return
        # The epoch's order, or a stream's first batches, is not a step's time.
        inputs = self._next_inputs()
        jax.block_until_ready((inputs, self._carry))
        self._watch.start(self.step)
        while self.step < last:
            self._trace.at(self.step, self._carry)
            self._carry = self._compiled.step(
                self._carry, inputs, self._parts.keys.steps
            )
            self.step += 1
            is_logged = self.step % self._config.log_every_steps == 0
            if is_logged or self.step == last:
                self._log(epoch)
            if every and self.step % every == 0 and self.step < last:
                self.save()
            if is_logged:
                self._signals.check_together()
            if self.step < last:
                inputs = self._next_inputs()

    def _next_inputs(self) -> Any:
        with self._signals.interrupting():
            return self._parts.feed.inputs(self.step)

    def _log(self, epoch: int) -> None:
        loss_scale = self._carry["state"].loss_scale
        interval, learning_rate, scale = self._fetch(
            self._carry["interval"],
            self._carry["learning_rate"],
            None if loss_scale is None else loss_scale.value,
        )
        self._carry = self._compiled.reset(self._carry, "interval")
        values = {
            "step": self.step,
            "epoch": epoch + 1,
            **self._means(interval),
            **self._learning_rate(learning_rate),
        }
        if scale is not None:
            values["loss_scale"] = float(scale)
        self._report("step", values)
        self._show(
            self.step,
            f"epoch {epoch + 1}/{self._config.epochs}  loss {values['loss']:.4f}",
        )

    def _means(self, tally: Mapping[str, Any]) -> dict[str, float]:
        """Returns the means of a tally, with the skipped steps where there may be."""
        means = means_of(tally)
        if self._config.non_finite == "skip" or self._config.dtype == "float16":
            means["skipped_steps"] = int(tally["skipped"])
        return means

    def _learning_rate(self, value: Any) -> dict[str, float]:
        """Returns the learning rate under its name, unless nobody knows it."""
        known = self._parts.schedule is not None
        return {"learning_rate": float(value)} if known else {}

    def _end_epoch(self, epoch: int) -> None:
        if self._progress.trained is None:
            self._progress.trained = self._close_epoch()
        values: dict[str, float] = {"epoch": epoch + 1, "step": self.step}
        trained = dict(self._progress.trained)
        learning_rate = trained.pop("learning_rate", None)
        values |= {f"train_{name}": value for name, value in trained.items()}
        for name in self._parts.evaluation:
            found = self._evaluate(self._carry["state"], name)
            del found["num_examples"]
            values |= {f"{name}_{metric}": value for metric, value in found.items()}
        if learning_rate is not None:
            values["learning_rate"] = learning_rate
        values |= self._epoch_timing()
        self._progress.history.append(values)
        self._progress.epoch_seconds, self._progress.trained = 0.0, None
        self._update_best(values)
        self._report("epoch", values)
        ends_run = self.step == self.num_steps or self._progress.stopped_early
        is_best = self._progress.best_step == self.step
        every = self._config.checkpoint_every_steps
        is_due = not every or self.step % every == 0
        if is_due or ends_run or is_best:
            self._save()
        self._signals.check_together()

    def _close_epoch(self) -> dict[str, float]:
        """Returns the means of the epoch's steps, and sets their sums back."""
        tally, learning_rate = self._fetch(
            self._carry["epoch"], self._carry["learning_rate"]
        )
        self._carry = self._compiled.reset(self._carry, "epoch")
        return {**self._means(tally), **self._learning_rate(learning_rate)}

    def _epoch_timing(self) -> dict[str, float]:
        """Returns the time of the epoch, of all its parts if it was resumed.

        The share of waiting is this process's.
        """
        seconds = self._progress.epoch_seconds
        images = self._parts.steps_per_epoch * self._config.batch_size
        return {
            "seconds": seconds,
            "images_per_second": images / seconds,
            "waiting_share": self._watch.waiting_share,
        }

    def _evaluate(self, state: TrainState, name: str) -> dict[str, float]:
        with self._signals.interrupting():
            batches = self._parts.evaluation[name].batches()
            return self._compiled.evaluate(state, batches)

    def _update_best(self, values: Mapping[str, float]) -> None:
        """Keeps the best parameters, and decides whether to go on."""
        if "validation_accuracy" not in values:
            return
        is_best = self._progress.update_best(
            values["validation_accuracy"],
            epoch=int(values["epoch"]),
            step=self.step,
            minimum_gain=self._config.minimum_gain,
            patience=self._config.patience,
        )
        if is_best:
            state = self._carry["state"]
            self._best_variables = self._read(state.evaluated_variables)

    def _fetch(self, *arrays: Any) -> list[Any]:
        """Waits for the device, fetches parts of the carry, and stops a broken run."""
        names = ("first_bad_step", "first_bad_leaf", "num_skipped")
        (step, leaf, num_skipped), values = jax.device_get(
            ([self._carry[name] for name in names], list(arrays))
        )
        seconds = self._watch.stop(self.step)
        self._progress.train_seconds += seconds
        self._progress.epoch_seconds += seconds
        may_skip = 0
        if self._config.non_finite == "skip":
            may_skip = self._config.maximum_skipped_steps
        if num_skipped > may_skip:
            paths = list(trees.named_leaves(self._carry["state"].params))
            self._raise_non_finite(int(step), None if leaf < 0 else paths[leaf])
        return values

    def _read(self, variables: Any) -> Any:
        return jax.device_get(self._compiled.gather(variables))

    def _raise_non_finite(self, step: int, leaf: str | None) -> None:
        latest = self._store.checkpoints.latest_step if self._store else None
        raise NonFiniteLossError(
            step,
            1 + (step - 1) // self._parts.steps_per_epoch,
            leaf,
            "There is no checkpoint from before."
            if latest is None
            else f"The last checkpoint, of step {latest}, is from before.",
        )

    def _report(self, event: str, values: dict[str, float]) -> None:
        if self._store is not None:
            self._store.files.write_metrics(event, values)
        for callback in self._callbacks:
            callback({"event": event, **values}, self._carry["state"])

    def _save(self) -> None:
        if self._store is None:
            return
        # The loss was that before the last update, which may have broken the numbers.
        leaf = self._compiled.bad_leaf(self._carry["state"])
        if leaf is not None:
            self._raise_non_finite(self.step, leaf)
        epoch, batch = data.locate(self.step, self._parts.steps_per_epoch)
        position = {"epoch": epoch, "batch": batch}
        self._store.save(self.step, self._carry, self._progress, position)

    def _restore_best(self) -> None:
        if self._progress.best_epoch:
            assert self._store is not None  # what was restored was stored
            _, carry, _ = self._store.restore(self._carry, self._progress.best_step)
            self._best_variables = self._read(carry["state"].evaluated_variables)


def _say(text: str) -> None:
    if is_main_process():
        messages.warn(text)
