"""`cnn-jax train`."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING, Any, get_args

from cnn_jax import messages, program
from cnn_jax.cli.usage import UsageError, number_in, print_json
from cnn_jax.preprocessing import CropMode, Interpolation
from cnn_jax.ranges import Real
from cnn_jax.report.table import Column, Table, print_table
from cnn_jax.report.words import count

if TYPE_CHECKING:  # what trains is imported when something is trained
    from cnn_jax.cli.train_setup import Setup

HELP = "Train a model on photographs in PATH/CLASS/, or on another dataset."

FEW_CLASSES = 12
"""Classes that are counted one by one."""

OPTIMIZERS = ("sgd", "adamw", "lamb", "lars", "rmsprop", "muon")
SCHEDULES = ("constant", "cosine", "linear", "one_cycle", "step")
DTYPES = ("float32", "bfloat16", "float16")
BATCH_NORMS = ("train", "adapt", "frozen")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = (
        "%(prog)s MODEL --data folder:PATH [--pretrained WEIGHTS] [--method METHOD]\n"
        "                     [options]"
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a name out of `cnn-jax models`"
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        *("--data", "--dataset"),
        metavar="DATA",
        help="folder:PATH with PATH/CLASS/ (split by itself) or PATH/{train,val,test}/"
        "CLASS/; digits; synthetic:HxWxC; or a prepared TFDS set",
    )
    images.add_argument(
        "--test-share",
        type=number_in(Real(0.0, 1.0)),
        default=0.2,
        metavar="SHARE",
        help="of each class of a folder, to test on (default: 0.2)",
    )
    images.add_argument(
        "--validation-share",
        type=number_in(Real(0.0, 1.0)),
        metavar="SHARE",
        help="to decide by when to stop (default: 0.15, or 0 where that is under 20 "
        "images)",
    )
    learning = parser.add_argument_group("what is learned")
    learning.add_argument(
        "--pretrained",
        metavar="WEIGHTS",
        help="start from these: a file, a run's directory, hf-hub:OWNER/NAME or "
        "package:NAME",
    )
    learning.add_argument(
        "--method",
        choices=("fine-tune", "probe"),
        default="fine-tune",
        help="train all layers, or a linear classifier on the features of --pretrained "
        "(default: fine-tune)",
    )
    files = parser.add_argument_group("the run")
    files.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where its files go (default: runs/MODEL-DATA, numbered)",
    )
    files.add_argument(
        "--resume", action="store_true", help="continue the run in DIR where it stopped"
    )
    files.add_argument(
        "--allow-changed",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="what may differ in a run that is resumed: environment, for another "
        "processor, number of threads, flags of XLA or version of jax",
    )
    choices = parser.add_argument_group(
        "choices",
        "Each is made from the model, the weights and the number of images, and "
        "printed with its reason; an option takes its place.",
    )
    _add_fields(
        choices,
        ("--epochs", int, "N"),
        ("--batch-size", int, "N"),
        ("--learning-rate", float, "RATE"),
        ("--optimizer", OPTIMIZERS, None),
        ("--weight-decay", float, "X"),
        ("--schedule", SCHEDULES, None),
        ("--warmup-epochs", float, "X"),
        ("--label-smoothing", float, "X"),
        ("--patience", int, "EPOCHS"),
        ("--image-size", int, "PIXELS"),
        ("--mean", float, "X"),
        ("--std", float, "X"),
        ("--crop-fraction", float, "X"),
        ("--crop-mode", get_args(CropMode), None),
        ("--interpolation", get_args(Interpolation), None),
        ("--augmentation", str, "POLICY"),
        ("--crop-padding", int, "PIXELS"),
        ("--batch-norm", BATCH_NORMS, None),
    )
    choices.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS
    )
    machine = parser.add_argument_group("machine")
    _add_fields(
        machine,
        ("--seed", int, "N"),
        ("--dtype", DTYPES, None),
        ("--mesh", str, "AXES"),
        ("--num-workers", int, "N"),
        ("--max-bad-images", int, "N"),
        ("--in-channels", int, "N"),
        ("--data-dir", str, "PATH"),
        ("--train-split", str, "NAME"),
        ("--test-split", str, "NAME"),
    )


def _add_fields(group: Any, *fields: tuple[str, Any, str | None]) -> None:
    """Adds options that are fields of `TrainConfig`, and absent unless given."""
    for option, kind, metavar in fields:
        settings: dict[str, Any] = {"default": argparse.SUPPRESS}
        if isinstance(kind, tuple):
            settings["choices"] = kind
        else:
            settings |= {"type": kind, "metavar": metavar}
        if option in ("--mean", "--std"):
            settings["nargs"] = "+"
        group.add_argument(option, **settings)


OWN = (
    *("model", "data", "test_share", "validation_share", "pretrained", "method"),
    *("run_dir", "resume", "json", "run"),
)
"""Options that are no fields of `TrainConfig`, or are read by themselves."""


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.cli.train_setup import set_up, set_up_resumed

    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name not in OWN
    }
    shown_on = sys.stderr if options.json else sys.stdout
    try:
        with contextlib.redirect_stdout(shown_on):
            try:
                make = set_up_resumed if options.resume else set_up
                setup = make(options, given)
            except (CheckpointError, ImportError, OSError, ValueError) as error:
                raise UsageError(str(error)) from error
            _print_parts(setup)
            _print_choices(setup)
            status, result = _execute(setup, is_probe=options.method == "probe")
    except program.Stopped:
        raise  # `main` says so
    except KeyboardInterrupt:
        # Once training has a directory, signals save first.
        messages.warn("Interrupted before there was anything to save.")
        return 130
    if options.json and result is not None:
        print_json({"run_dir": setup.config.run_dir, "result": result})
    return status


def _execute(setup: Setup, *, is_probe: bool) -> tuple[int, Any]:
    """Trains, and says what came of it: the exit status, and the result as JSON."""
    from cnn_jax import experiment
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.checkpoint.lock import lock_new
    from cnn_jax.cli.train_setup import check_is_new
    from cnn_jax.training.run.stopping import STOPPED_EXIT_CODE, RunStoppedError

    config = setup.config
    try:
        experiment.use_compilation_cache(config.compilation_cache)
        with lock_new(pathlib.Path(_run_dir(setup)).expanduser()):
            if not config.resume:  # since the set-up another run may have begun
                check_is_new(config)
            setup.write_split()
            if is_probe:
                result = _probe(setup)
            else:
                found = experiment.run(config, setup.splits())
                experiment.conclude(found)
                result = found.summary()
    except RunStoppedError as error:
        line = shlex.join(
            ["cnn-jax", "train", "--resume", "--run-dir", _run_dir(setup)]
        )
        messages.warn(f"{error}\n  {line}")
        return program.leaving(STOPPED_EXIT_CODE), None
    except (ValueError, FileExistsError, ImportError) as error:
        raise UsageError(str(error)) from error
    except (ArithmeticError, CheckpointError, OSError) as error:
        messages.warn(f"cnn-jax: error: {error}")
        return 1, None
    _print_predict(setup)
    return 0, result


def _probe(setup: Setup) -> dict[str, Any]:
    from cnn_jax import experiment, probe_run

    config, splits = setup.config, setup.splits()
    if splits is None:
        splits = experiment.open_splits(config)
    found = probe_run.run(config, splits)
    messages.say(
        f"test accuracy {found.test['accuracy']:.2%} on {found.test['num_examples']} "
        f"examples, {found.train['accuracy']:.2%} on the "
        f"{found.train['num_examples']} trained on; features in "
        f"{found.feature_seconds:.0f} s, classifier in {found.fit_seconds:.0f} s"
    )
    directory = config.run_dir
    messages.say(
        f"result in {directory}/result.json, report in {directory}/report.html"
    )
    return {"train": found.train, "test": found.test, "fit": found.report._asdict()}


def _print_parts(setup: Setup) -> None:
    """Prints how many images of which class are in which part."""
    from cnn_jax.cli.train_setup import SPLIT_FILE, class_counts

    parts = setup.parts
    names = [name for name in ("train", "validation", "test") if name in parts]
    counts = {
        name: found
        for name in names
        if (found := class_counts(parts[name])) is not None
    }
    classes = parts["train"].class_names
    columns = [Column("class", "Class")]
    columns += [Column(name, name.capitalize(), format_spec=",d") for name in names]
    rows: list[dict[str, Any]] = []
    if len(classes) <= FEW_CLASSES and len(counts) == len(names):
        rows += [
            {"class": label, **{name: int(counts[name][place]) for name in names}}
            for place, label in enumerate(classes)
        ]
    total = "all" if rows else f"{len(classes):,} classes"
    rows.append({"class": total, **{name: len(parts[name]) for name in names}})
    notes = []
    if setup.is_split_here:
        notes.append(
            f"Split by the files' names, the same share of each class; see "
            f"{setup.config.run_dir}/{SPLIT_FILE}."
        )
    elif setup.config.validation_fraction:
        share = setup.config.validation_fraction
        notes.append(
            f"Of the training images, {share:.3g} are held out to validate on."
        )
    number = sum(len(parts[name]) for name in names)
    print_table(
        Table(count(number, "image"), columns, rows, notes),
        messages.console(sys.stdout),
    )


def _print_choices(setup: Setup) -> None:
    """Prints what was chosen; reasons that do not fit the terminal are wrapped."""
    import rich.table
    import rich.text

    if not setup.choices:
        return
    grid = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold", style="dim")
    for choice in setup.choices:
        texts = (choice.name, choice.text, choice.reason)
        grid.add_row(*map(rich.text.Text, map(messages.printable, texts)))
    console = messages.console(sys.stdout)
    console.print()
    console.print(grid)
    console.print()


def _print_predict(setup: Setup) -> None:
    """Prints the command that classifies an image, by a test image if there is one."""
    from cnn_jax.cli.train_setup import first_file

    image = first_file(setup.parts["test"])
    line = shlex.join(["cnn-jax", "predict", _run_dir(setup)])
    image = "IMAGE" if image is None else shlex.quote(image)
    messages.say(f"classify images with\n  {line} {image}")


def _run_dir(setup: Setup) -> str:
    assert setup.config.run_dir is not None  # every run here has one
    return setup.config.run_dir
