"""A small dataset and a small network that trains in a second."""

from helpers.tiny_runs import (  # noqa: F401  # pytest finds fixtures by these names
    compilation_cache,
    config,
    digits,
    tiny_net,
    with_run,
)
