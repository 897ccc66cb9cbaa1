"""The command line of an experiment: a preset, and every field as an option."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from cnn_jax import messages, program
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.config.preset import Preset, find_preset


def parse_config(
    default: TrainConfig,
    description: str,
    arguments: list[str] | None = None,
    presets: Mapping[str, Preset] | None = None,
) -> TrainConfig:
    """Returns the configuration that a command line describes, not validated.

    Exits with 2 and a message if the command line is invalid, with 0 after `--help`.

    Args:
      default: What the options change.
      description: What `--help` says before the options.
      arguments: The options; `sys.argv[1:]` when None.
      presets: What `--preset` can name; without any there is no such option.
    """
    import tyro

    if presets:
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        try:
            name, arguments = _split_preset(arguments)
            preset = None if name is None else find_preset(presets, name)
        except ValueError as error:
            messages.warn(str(error))
            sys.exit(2)
        default = default if preset is None else preset.applied_to(default)
        lines = (f"    --preset {name}: {each}" for name, each in presets.items())
        description = "\n".join([description.rstrip(), "", "Presets:", "", *lines, ""])
    return program.parsed(
        lambda: tyro.cli(
            TrainConfig, args=arguments, default=default, description=description
        ),
        arguments,
    )


def _split_preset(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--preset NAME` out of a command line.

    Args:
      arguments: The options, this one as `--preset NAME` or `--preset=NAME`.

    Returns:
      The name, None if none is given, and the other options in their order.

    Raises:
      ValueError: If it is given twice or without a name.
    """
    names, others = [], []
    left = iter(arguments)
    for argument in left:
        option, has_value, value = argument.partition("=")
        if option != "--preset":
            others.append(argument)
            continue
        names.append(value if has_value else next(left, ""))
    if len(names) > 1:
        raise ValueError(f"preset: got {' and '.join(names)}, expected one.")
    if names and (not names[0] or names[0].startswith("-")):
        raise ValueError(f"preset: got {names[0]!r}, expected a name behind --preset.")
    return (names[0] if names else None), others
