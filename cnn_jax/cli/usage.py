"""Usage errors, the argument parser and formatted output of all commands."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from cnn_jax import messages
from cnn_jax.files import json_value
from cnn_jax.ranges import Real, Whole, shown

WEIGHTS = (
    "the directory of a training run, what `cnn-jax convert` wrote, or what it "
    "converts, such as package:NAME"
)
"""The help of an argument that takes weights of any kind."""

LONGEST_MESSAGE = 1000
"""Characters of a message about one option."""


class UsageError(ValueError):
    """An invalid command line; its message is for the person who typed it."""


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError`, as all checks of a command line do."""

    def error(self, message: str) -> NoReturn:
        """Raises what `main` reports."""
        if len(message) > LONGEST_MESSAGE:  # with what was typed in it
            message = f"{message[:LONGEST_MESSAGE]}..."
        raise UsageError(f"{message}. See {self.prog} --help.")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, for weights that do not name their model."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a name out of `cnn-jax models`; runs and what `cnn-jax convert` wrote "
        "name their own",
    )


def class_names_of(option: str | None) -> Sequence[str] | None:
    """Returns the names that `--classes` stands for; None without the option.

    Args:
      option: A file with a name in each line, or `imagenet` for ImageNet's.

    Raises:
      OSError, ValueError: As `read_class_names` does.
    """
    # Packages that take seconds to import.
    from cnn_jax.data.class_names import read_class_names
    from cnn_jax.data.imagenet import imagenet_class_names

    if option is None:
        return None
    return imagenet_class_names() if option == "imagenet" else read_class_names(option)


def number_in(allowed: Whole | Real) -> Callable[[str], int | float]:
    """Returns the `type` of an option whose numbers have a range."""
    kind = int if isinstance(allowed, Whole) else float

    def parse(text: str) -> int | float:
        try:
            found = kind(text)
        except ValueError:
            found = math.nan
        if not allowed.holds(found):
            raise argparse.ArgumentTypeError(
                f"got {shown(text)}, expected {allowed.expected}"
            )
        return found

    return parse


def nearest(name: str, known: Iterable[str]) -> str:
    """Asks whether the nearest names were meant; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def listed(names: Iterable[str]) -> str:
    """Returns the end of a sentence that lists names."""
    return ", ".join(names) + "."


def shape_text(shape: Iterable[int]) -> str:
    """Returns `32 x 32 x 3`."""
    return " x ".join(map(str, shape))


def print_json(content: Any) -> None:
    """Prints JSON, with NaN and infinities as null."""
    print(json.dumps(json_value(content), indent=2))


def print_text(text: object) -> None:
    """Prints a result, escaped: there may be names out of files in it."""
    print(messages.printable(str(text), keep="\n\t"))


def with_progress(steps: Mapping[str, int]) -> Iterator[str]:
    """Yields names, and shows the current one on standard error.

    A terminal gets a bar with the time left; anything else a line for each.

    Args:
      steps: Name -> how much work it is, in any unit.
    """
    with messages.progress(transient=True) as progress:
        task = progress.add_task("", total=sum(steps.values()))
        for number, (name, amount) in enumerate(steps.items(), start=1):
            progress.update(task, description=messages.printable(name))
            if progress.disable:
                messages.warn(f"[{number}/{len(steps)}] {name}")
            yield name
            progress.advance(task, amount)


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Shows a message on standard error, if that is a terminal, while a block runs."""
    import rich.text

    console = messages.console(sys.stderr)
    if not console.is_terminal:
        yield
        return
    with console.status(rich.text.Text(messages.printable(text))):
        yield
