"""The command line: `cnn-jax COMMAND`, a module for each command.

Results go to standard output, as a table or as JSON; messages and progress go to
standard error. The exit status is 0 for success, 1 for a check that failed and 2 for a
command that is invalid.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

import cnn_jax
from cnn_jax.cli import convert, gradcheck, models, predict, prepare, summary, train
from cnn_jax.cli.usage import Parser, UsageError, listed, nearest

COMMANDS = {
    "models": models,
    "summary": summary,
    "gradcheck": gradcheck,
    "train": train,
    "prepare": prepare,
    "convert": convert,
    "predict": predict,
}
"""The module of each command: `HELP`, `add_arguments` and `run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: The command and its options; `sys.argv[1:]` when None.

    Returns:
      The exit status: 0 for success, 1 for a check that failed, 2 for a command that
      is invalid.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _make_parser()
    try:
        _check_command(arguments)
        options = parser.parse_args(arguments)
        status = options.run(options)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"cnn-jax: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has seen enough. What is left would fail
        # once more, with a message, when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


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
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_arguments(command)
        command.add_argument(
            "--json", action="store_true", help="print JSON instead of a table"
        )
        command.set_defaults(run=module.run)
    return parser


def _check_command(arguments: Iterable[str]) -> None:
    """Refuses an unknown command and names the nearest, which argparse does not."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    if words and words[0] not in COMMANDS:
        hint = nearest(words[0], COMMANDS)
        raise UsageError(
            f"got unknown command {words[0]!r}; "
            f"{hint or 'expected one of ' + listed(COMMANDS)}"
        )
