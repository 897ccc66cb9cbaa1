"""An experiment from its configuration: the data, the model, the run, its page.

A file in `experiments/` is a docstring, a `TrainConfig` and a call of `main`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cnn_jax import data, messages, program
from cnn_jax.allocator import keep_memory
from cnn_jax.analysis.summary import summarize
from cnn_jax.checkpoint import CheckpointError
from cnn_jax.chips import PEAK_FLOPS
from cnn_jax.data.partition import num_held_out
from cnn_jax.evaluation.of_run import write_test_scores
from cnn_jax.files import is_local
from cnn_jax.models import create_model
from cnn_jax.pretrained import load_pretrained
from cnn_jax.pretrained.files import describe_own
from cnn_jax.pretrained.load import stored_channels
from cnn_jax.report.run_page import write_run_page
from cnn_jax.report.words import count, duration
from cnn_jax.training import TrainConfig
from cnn_jax.training.config.command_line import parse_config
from cnn_jax.training.config.preset import Preset
from cnn_jax.training.devices.processes import connected_hosts, is_main_process
from cnn_jax.training.run.channels import (
    input_channels,
    weights_channels,
    with_input_channels,
)
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import image_shape
from cnn_jax.training.run.keys import make_keys
from cnn_jax.training.run.result import FitResult
from cnn_jax.training.run.stopping import STOPPED_EXIT_CODE, RunStoppedError

REFUSALS = (ValueError, OSError, ArithmeticError, ImportError, CheckpointError)
"""Errors that end an experiment with a sentence rather than a traceback."""


def run(
    config: TrainConfig, splits: Mapping[str, data.Source] | None = None
) -> FitResult:
    """Opens the data, makes the model and trains it, printing a line an epoch.

    With `config.pretrained` it starts from there, and images are prepared as these
    weights know them unless the configuration says how.

    Args:
      config: The run's configuration.
      splits: `"train"`, `"test"` and perhaps `"validation"`, in place of those that the
        configuration names.

    Raises:
      ValueError, OSError, ArithmeticError, ImportError, CheckpointError: As `fit`,
        `create_model`, `load_pretrained` and `data.open_split` do.
    """
    config.validate()
    keep_memory(config.keep_memory)  # weights are read with computations, too
    if splits is None:
        splits = open_splits(config)
    train = splits["train"]
    model = create_model(
        config.model,
        num_classes=len(train.class_names),
        in_channels=config.in_channels,
        dtype=config.dtype,
        **config.model_overrides(),
    )
    known, variables = None, None
    if config.pretrained is not None:
        splits = with_input_channels(splits, _channels(config, model, train))
        train = splits["train"]
        known, variables = _load_pretrained(config, model, train)
        config = _with_normalization(config, known)
    if config.run_dir is not None and is_main_process():
        messages.say(f"every option as it is: {config.run_dir}/config.json")
    result = fit(
        model,
        train,
        test=splits["test"],
        config=config,
        validation=splits.get("validation"),
        initial_variables=variables,
        callbacks=[EpochLines(config.epochs, _num_evaluated(config, splits))],
        macs_per_example=_count_macs(
            model,
            (
                *image_shape(config, train)[:2],
                input_channels(config, model, train.features.image_shape),
            ),
        ),
        weights_preprocessing=known,
    )
    if config.run_dir is not None:
        _say_it_is_over(config.run_dir)
        write_test_scores(model, result, splits["test"], config)
    return result


def open_splits(config: TrainConfig) -> dict[str, data.Source]:
    """Opens the `"train"` and the `"test"` split that a configuration names."""
    return {
        name: data.open_split(
            config.dataset,
            split,
            data_dir=config.data_dir,
            image_size=config.image_size,
            path=config.data_path,
        )
        for name, split in (("train", config.train_split), ("test", config.test_split))
    }


def _num_evaluated(config: TrainConfig, splits: Mapping[str, data.Source]) -> int:
    """Returns of how many images the accuracy is that an epoch's line has."""
    if config.validation_fraction:
        return num_held_out(splits["train"], config.validation_fraction)
    return len(splits.get("validation", splits["test"]))


def _channels(config: TrainConfig, model: Any, train: data.Source) -> int:
    """Returns how many channels images get that meet the pretrained weights.

    Raises:
      ValueError: If these are of a model that has no name.
    """
    weights = config.pretrained
    assert weights is not None  # that is why it is called
    own = describe_own(weights)
    if own is not None:
        own.require_name(weights)
    return weights_channels(
        config,
        model,
        train.features.image_shape,
        lambda: stored_channels(model, weights),
    )


def _load_pretrained(
    config: TrainConfig, model: Any, train: data.Source
) -> tuple[Mapping[str, Any], Any]:
    """Returns what weights say of their images, and the variables to start from."""
    assert config.pretrained is not None  # that is why it is called
    variables, report = load_pretrained(
        model,
        config.pretrained,
        key=make_keys(config.seed).parameters,
        input_shape=image_shape(config, train),
    )
    if is_main_process():
        messages.say(f"{config.pretrained}: {report}")
    return report.provenance.preprocessing, variables


def _with_normalization(config: TrainConfig, known: Mapping[str, Any]) -> TrainConfig:
    """Returns the configuration with the weights' mean and deviation, if it has none.

    So `config.json` says them as options, with which the run can be repeated. A run
    that is resumed has what it recorded, whatever is known of its weights by now.
    """
    is_said = None not in (known.get("mean"), known.get("std"))
    if config.resume or config.mean is not None or not is_said:
        return config
    mean, std = (tuple(map(float, known[name])) for name in ("mean", "std"))
    return dataclasses.replace(config, mean=mean, std=std)


def _count_macs(model: Any, shape: tuple[int, int, int]) -> int | None:
    """Counts a forward pass's multiply-adds where there is a peak to hold against."""
    if jax.devices()[0].device_kind not in PEAK_FLOPS:
        return None
    return summarize(model, shape).macs


def use_compilation_cache(directory: str | None) -> None:
    """Keeps compiled programs in a directory, unless JAX was told another one.

    Args:
      directory: A path, or `gs://...`, which JAX writes to itself; None for nowhere.
    """
    settings: Any = jax.config  # its fields are made when it is imported
    if directory is not None and settings.jax_compilation_cache_dir is None:
        if is_local(directory):
            directory = str(pathlib.Path(directory).expanduser().absolute())
        jax.config.update("jax_compilation_cache_dir", directory)


class EpochLines:
    """Prints one line for each epoch: a callback of `fit`.

    It has the accuracy that decisions go by, of the validation split where there is
    one, with the best so far; the test split decides nothing. The first line says of
    how many images it is: of few, one more or less right is a large step. The time left
    is that of the epochs so far, with evaluation and checkpoints, for those to come.

    Args:
      num_epochs: How many epochs the run has, unless it stops early.
      num_evaluated: The number of images that the accuracy is of.
      clock: Returns seconds.
    """

    def __init__(
        self,
        num_epochs: int,
        num_evaluated: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_epochs = num_epochs
        self._num_evaluated = num_evaluated
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._best = (-1.0, 0)

    def __call__(self, line: dict[str, Any], state: object) -> None:
        """Prints the line of an epoch; steps have none."""
        if line["event"] != "epoch" or not is_main_process():
            return
        epoch, split = line["epoch"], "test"
        best = ""
        if "validation_accuracy" in line:
            split = "validation"
            accuracy = line["validation_accuracy"]
            if accuracy > self._best[0]:
                self._best = (accuracy, epoch)
            elif self._best[1]:
                best = f" (best {self._best[0]:.2%} in epoch {self._best[1]})"
        of = f" of {count(self._num_evaluated, 'image')}" if self._first is None else ""
        left = self._seconds_left(epoch, line["seconds"])
        messages.say(
            f"epoch {epoch}/{self._num_epochs}: train loss {line['train_loss']:.4f}, "
            f"{split} accuracy {line[f'{split}_accuracy']:.2%}{of}{best}, "
            f"{line['seconds']:.0f} s" + (f", {duration(left)} left" if left else "")
        )

    def _seconds_left(self, epoch: int, seconds: float) -> float:
        now = self._clock()
        if self._first is None:
            # What came before, compiling above all, is not an epoch's time.
            self._first = (epoch, now)
        else:
            first, then = self._first
            seconds = (now - then) / (epoch - first)
        return seconds * (self._num_epochs - epoch)


def main(
    default: TrainConfig,
    description: str,
    arguments: list[str] | None = None,
    *,
    presets: Mapping[str, Preset] | None = None,
) -> None:
    """Runs the experiment that the command line describes.

    Every field of the configuration is an option. `--preset NAME` changes the defaults
    of several at once; a field that is given wins over it. Exits with 2 for a command
    line that is invalid, with 1 and one sentence when the run cannot go on or its page
    not be written, and with 75 when a signal stopped a run that is saved (see
    `cnn_jax.training.run.stopping`) or has nothing to save yet. Standard output and
    error decide nothing: the run goes on without them.

    Args:
      default: What the options change.
      description: What `--help` says: the experiment's docstring.
      arguments: The options; `sys.argv[1:]` when None.
      presets: What `--preset` can name; without any there is no such option.
    """
    if arguments is None:
        program.own_process()
    program.open_descriptors()
    try:
        with program.signals(is_run=True):
            _main(default, description, arguments, presets or {})
    except program.Stopped as stopped:
        sys.exit(program.status_of(stopped, is_run=True))
    except RunStoppedError as error:
        messages.warn(str(error))
        sys.exit(program.leaving(STOPPED_EXIT_CODE))
    except REFUSALS as error:
        sys.exit(messages.printable(f"{type(error).__name__}: {error}", keep="\n\t"))
    finally:
        messages.settle()


def _main(
    default: TrainConfig,
    description: str,
    arguments: list[str] | None,
    presets: Mapping[str, Preset],
) -> None:
    config = parse_config(default, description, arguments, presets)
    config.validate()
    use_compilation_cache(config.compilation_cache)
    with connected_hosts(
        config.coordinator_address, config.num_processes, config.process_id
    ):
        result = run(config)
        speaks = is_main_process()
    if speaks:
        conclude(result)


def conclude(result: FitResult) -> None:
    """Prints the last lines, and writes the page where there is a directory for it."""
    if result.run_dir is not None:
        _say_it_is_over(result.run_dir)
    _print_result(result)
    if result.run_dir is not None:
        page = write_run_page(result.run_dir)
        program.signals_say(f"the run in {result.run_dir} is over, its page written.")
        messages.say(
            f"result in {result.run_dir}/result.json, report in "
            f"{result.run_dir}/{page.name}"
        )


def _say_it_is_over(run_dir: str) -> None:
    """Has signals say that the run is saved, whatever is interrupted after it."""
    program.signals_say(
        f"the run in {run_dir} is over and saved, but its page is not written. Resume "
        "it with --resume to write it."
    )


def _print_result(result: FitResult) -> None:
    if result.stopped_early:
        best = result.history[result.best_epoch - 1]["validation_accuracy"]
        messages.say(
            f"stopped early after epoch {len(result.history)}: no gain in validation "
            f"accuracy since epoch {result.best_epoch} ({best:.2%})"
        )
    assert result.test is not None  # `run` gives a test split
    messages.say(
        f"test accuracy {result.test['accuracy']:.2%} on "
        f"{result.test['num_examples']} examples (epoch {result.best_epoch}), "
        f"{result.step_seconds_median * 1e3:.0f} ms a step, "
        f"{result.train_seconds:.0f} s of training, "
        f"{result.compile_seconds:.0f} s of compiling"
    )
