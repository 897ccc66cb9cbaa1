"""`cnn-jax plan`."""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from cnn_jax.cli.usage import UsageError, number_in, print_json, print_text
from cnn_jax.planning.compiled import CACHE
from cnn_jax.ranges import MAX_SIDE, Whole, shown

HELP = "Compile a training step for a TPU slice: does it fit, and how fast would it be?"

IMAGES_OF_A_DEVICE = 64
"""Images of a device, unless a batch is given."""


PARALLEL = ("jit", "shard_map")


def scope(text: str) -> str | int:
    """Reads `global`, `device` or a number of devices."""
    return int(text) if text.isascii() and text.isdecimal() else text


def parallel(text: str) -> str:
    """Reads one of `PARALLEL`."""
    if text not in PARALLEL:
        raise argparse.ArgumentTypeError(
            f"got {shown(text)}, expected one of {', '.join(PARALLEL)}"
        )
    return text


class OneModel(argparse.Action):
    """Stores the model's name; a second one is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Stores it."""
        if hasattr(namespace, "model"):
            parser.error(
                f"MODEL: got {shown(namespace.model)} and {shown(values)}, expected one"
            )
        namespace.model = values


class Several(argparse.Action):
    """Collects the values of an option, each once, over all its repetitions.

    The last word may be the command's MODEL: one that no model was given before, and
    that cannot be a value of the option.

    Args:
      read: Reads a value; raises `argparse.ArgumentTypeError` for what is none.
      is_value: Whether a word is meant as a value of the option.
    """

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        read: Callable[[str], Any] = str,
        is_value: Callable[[str], bool],
        **options: Any,
    ):
        super().__init__(option_strings, dest, nargs="+", **options)
        self._read = read
        self._is_value = is_value

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Adds the values to those before."""
        words = list(values or ())
        is_model = not hasattr(namespace, "model") and not self._is_value(words[-1])
        if is_model and len(words) > 1:
            namespace.model = words.pop()
        try:
            found = [self._read(word) for word in words]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        before = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, list(dict.fromkeys([*before, *found])))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = (
        "%(prog)s MODEL --topology TOPOLOGY [--batch-size N] [options]\n"
        "                    [--max-batch | --search]"
    )
    # It may stand last in the words of an option that takes several: see `Several`.
    parser.add_argument(
        "model",
        nargs="?",
        action=OneModel,
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help="a name out of `cnn-jax models`",
    )
    _add_step(parser.add_argument_group("the step"))
    _add_spread(
        parser.add_argument_group(
            "its devices", "With --search, an option of these may have several values."
        )
    )
    task = parser.add_mutually_exclusive_group()
    task.add_argument(
        "--max-batch",
        action="store_true",
        help="halve or double the batch until it fits and its double does not",
    )
    task.add_argument(
        "--search",
        action="store_true",
        help="compare plans: by default half, once and twice the batch, both scopes of "
        "batch normalisation, with and without --remat",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--html", metavar="FILE", help="write the plans as a page")
    files.add_argument(
        "--cache",
        default=CACHE,
        metavar="DIR",
        help="where what the compiler said is kept; `none` keeps nothing (default: "
        "%(default)s)",
    )


def _add_step(group: Any) -> None:
    add = group.add_argument
    add("--image-size", type=number_in(Whole(1, MAX_SIDE)), metavar="PIXELS")
    add("--num-classes", type=number_in(Whole(1, 2**20)), metavar="COUNT")
    add(
        *("--dtype", "--precision"),
        choices=("float32", "bfloat16", "float16"),
        default="bfloat16",
        help="of activations (default: bfloat16)",
    )
    add(
        "--optimizer",
        choices=("sgd", "adamw", "lamb", "lars", "rmsprop", "muon"),
        default="sgd",
        help="(default: sgd, with momentum)",
    )
    add(
        "--remat",
        action=argparse.BooleanOptionalAction,
        help="recompute what is inside the model's blocks in the backward pass",
    )


def _add_spread(group: Any) -> None:
    add = group.add_argument
    add(
        "--topology",
        action=Several,
        is_value=lambda word: ":" in word,
        required=True,
        metavar="NAME",
        help="the slice, such as v5e:2x4, v5e:16x16 or v4:8x8x16; cpu:8 for simulated "
        "devices, of which no cycles are known",
    )
    add(
        *("--batch-size", "--batch"),
        action=Several,
        read=number_in(Whole(1, 2**24)),
        is_value=lambda word: word[-1:].isdigit() and not word[:1].isalpha(),
        metavar="N",
        help="examples of a step, over all devices (default: "
        f"{IMAGES_OF_A_DEVICE} a device)",
    )
    add(
        "--batch-per-device",
        type=number_in(Whole(1, 2**24)),
        metavar="N",
        help="the same by the examples of each device, which follow its number",
    )
    add(
        "--parallel",
        action=Several,
        read=parallel,
        is_value=lambda word: word in PARALLEL,
        metavar=f"{{{','.join(PARALLEL)}}}",
        help="(default: jit)",
    )
    add(
        "--mesh",
        action=Several,
        is_value=lambda word: "=" in word,
        metavar="AXES",
        help="such as data=4,fsdp=2 (default: all devices on data)",
    )
    add(
        "--batch-norm-scope",
        action=Several,
        read=scope,
        is_value=lambda word: word in ("global", "device") or word.isdecimal(),
        metavar="SCOPE",
        help="global, device, or a number of devices (default: global)",
    )
    add("--reduce-dtype", choices=("bfloat16",), help="of sums, with shard_map")


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.planning.topology import prepare_environment

    if not hasattr(options, "model"):
        raise UsageError(
            "MODEL: got none, expected a name out of `cnn-jax models`. See "
            "cnn-jax plan --help."
        )
    prepare_environment()  # before anything asks jax for a device
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.cli.plan_making import make_record
    from cnn_jax.files import write_output

    try:
        if options.html is not None:
            _check_page(options.html)
        record = make_record(options)
        if options.html is not None:
            from cnn_jax.report.plan_page import render

            write_output(options.html, render(record))
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        print_json(record)
    else:
        _print(record, options)
    return 0 if record["best"] is not None else 1


def _check_page(name: str) -> None:
    """Checks that a page can be written, before the work that it is about."""
    path = pathlib.Path(name)
    if not name or path.is_dir():
        raise UsageError(f"html: got {shown(name)}, expected the name of a file.")
    if path.exists() and not path.is_file():  # a device or a pipe
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def _print(record: dict[str, Any], options: argparse.Namespace) -> None:
    from cnn_jax.report.plan_page import candidate_table, plan_tables
    from cnn_jax.report.table import print_table

    plans = record["plans"]
    tables = []
    if len(plans) > 1:
        tables.append(candidate_table(record))
    shown = plans[record["best"] or 0]
    tables += plan_tables(shown)
    for table in tables:
        print_table(table)
    if not shown["fits"] and shown["refusal"]:
        print_text(shown["refusal"].partition("\n")[0])
    if options.html is not None:
        print_text(f"page in {options.html}")
