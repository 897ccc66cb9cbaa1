"""The command line: `cnn-jax COMMAND`, a module for each command.

Results go to standard output, as a table or as JSON; messages and progress go to
standard error. The exit status is 0 for success, 1 for a check that failed and 2 for a
command that is invalid.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import cnn_jax
from cnn_jax import messages, program
from cnn_jax.cli.usage import Parser, UsageError, listed, nearest

COMMANDS = (
    *("models", "summary", "gradcheck", "train", "prepare", "convert", "predict"),
    *("evaluate", "export", "plan", "doctor"),
)
"""Each is a module of this package, with `HELP`, `add_arguments` and `run`. They are
imported when signals are listened to: it takes seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: The command and its options; `sys.argv[1:]` when None.

    Returns:
      The exit status: 0 for success, 1 for a check that failed, 2 for a command that
      is invalid.
    """
    if arguments is None:
        program.own_process()
        arguments = sys.argv[1:]
    arguments = list(arguments)
    program.open_descriptors()
    is_run = arguments[:1] == ["train"]
    try:
        with program.signals(is_run=is_run):
            return _run(arguments)
    except program.Stopped as stopped:
        return program.status_of(stopped, is_run=is_run)
    except UsageError as error:
        messages.warn(f"cnn-jax: error: {error}")
        return 2
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has seen enough.
        messages.give_up(sys.stdout)
        return 1
    except OSError as error:  # all others became the error of a command
        messages.give_up(sys.stdout)
        messages.warn(f"cnn-jax: error: standard output cannot be written: {error}")
        return 1
    finally:
        messages.settle()


def _run(arguments: list[str]) -> int:
    _check_command(arguments)
    options = _make_parser().parse_args(arguments)
    status: int = options.run(options)
    sys.stdout.flush()
    return status


def _make_parser() -> Parser:
    parser = Parser(
        prog="cnn-jax",
        description="Convolutional networks in JAX.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"cnn_jax {cnn_jax.__version__}"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = _module(name)
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_arguments(command)
        command.add_argument(
            "--json", action="store_true", help="print JSON instead of a table"
        )
        command.set_defaults(run=module.run)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"cnn_jax.cli.{name}")


def _check_command(arguments: Iterable[str]) -> None:
    """Refuses an unknown command and names the nearest, which argparse does not."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    if words and words[0] not in COMMANDS:
        hint = nearest(words[0], COMMANDS)
        raise UsageError(
            f"got unknown command {words[0]!r}; "
            f"{hint or 'expected one of ' + listed(COMMANDS)}"
        )


if not TYPE_CHECKING:

    def __getattr__(name: str):
        if name in COMMANDS:
            return _module(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
