"""The environment of a result: command, versions, hardware, source revision.

Nothing here names a person or a machine: no host name, no user name, no absolute
path (those below the home directory start with `~`, others keep their last part).
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence

from cnn_jax import allocator, machine

PACKAGES = (
    "cnn_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "matplotlib",
    "torch",
)
"""The packages whose versions a report quotes, where they are installed."""

SETTINGS = (
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "XLA_FLAGS",
)
"""The environment variables that belong to the command when they are set."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """The details needed to judge a measurement, or to repeat it.

    Attributes:
      date: When the report was made, in UTC, ISO 8601.
      python: The version of Python.
      platform: The operating system and the machine's architecture.
      cpu: The processor's model.
      num_cores: The processor cores that this process may use.
      memory_bytes: The machine's main memory; `None` where unknown.
      keeps_memory: Whether this process keeps the memory that it frees, see
        `cnn_jax.allocator`.
      devices: One string for each kind of JAX device, with how many there are.
      settings: The environment variables of JAX and XLA that were set.
      versions: The version of every package of `PACKAGES` that is installed.
      revision: The Git commit of the source, `+changes` behind it if files differ
        from it; `None` where the package is not run from a repository.
    """

    date: str
    python: str
    platform: str
    cpu: str
    num_cores: int
    memory_bytes: int | None
    keeps_memory: bool
    devices: tuple[str, ...]
    settings: dict[str, str]
    versions: dict[str, str]
    revision: str | None

    def facts(self) -> dict[str, str]:
        """Returns what a report shows of it, name by name, in reading order."""
        hardware = f"{self.cpu}, {self.num_cores} cores for this process"
        if self.memory_bytes is not None:
            hardware += f", {self.memory_bytes / 2**30:.0f} GiB memory"
        if self.keeps_memory:
            hardware += ", what is freed is kept"
        versions = [f"{name} {version}" for name, version in self.versions.items()]
        facts = {
            "Date": self.date,
            "Hardware": hardware,
            "JAX devices": ", ".join(self.devices),
            "Versions": ", ".join([self.python, *versions]),
            "System": self.platform,
        }
        if self.settings:
            settings = [f"{name}={value}" for name, value in self.settings.items()]
            facts["Settings"] = " ".join(settings)
        if self.revision is not None:
            facts["Source revision"] = self.revision
        return facts


def describe_environment() -> Environment:
    """Inspects this process and this machine; starts JAX's backend if need be."""
    now = datetime.datetime.now(datetime.UTC)
    return Environment(
        date=now.isoformat(timespec="seconds"),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.machine()}",
        cpu=machine.cpu_model(),
        num_cores=machine.num_cores(),
        memory_bytes=_memory_bytes(),
        keeps_memory=allocator.keeps_memory(),
        devices=_devices(),
        settings=_settings(),
        versions=_versions(),
        revision=_revision(pathlib.Path(__file__)),
    )


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Returns the command that started this process, ready for a shell.

    Args:
      arguments: The program and its arguments; `sys.argv` if not given.

    Returns:
      The command, with the environment variables that belong to it in front, paths
      relative to the current directory or to `~`, and no other absolute path.
    """
    module = _module_run() if arguments is None else None
    arguments = list(sys.argv if arguments is None else arguments)
    program = without_private_paths(arguments[0])
    words = ["python", program] if program.endswith(".py") else [program]
    if module is not None:
        words = ["python", "-m", module]
    words += [without_private_paths(argument) for argument in arguments[1:]]
    settings = [f"{key}={shlex.quote(value)}" for key, value in _settings().items()]
    return " ".join(settings + [_quote(word) for word in words])


def _module_run() -> str | None:
    """Returns the module that `python -m` runs, or None for a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else spec.name.removesuffix(".__main__")


def without_private_paths(argument: str) -> str:
    """Returns a command's argument without the absolute part of its path.

    Args:
      argument: One word of a command, `--name=value` included.

    Returns:
      The word; an absolute path in it becomes relative to the current directory,
      else to `~`, else it is cut down to its last part.
    """
    name, equals, value = argument.partition("=")
    if not equals or not name.startswith("-"):
        name, equals, value = "", "", argument
    path = pathlib.Path(value)
    if not path.is_absolute():
        return argument
    if path.is_relative_to(pathlib.Path.cwd()):
        short = path.relative_to(pathlib.Path.cwd()).as_posix()
    elif path.is_relative_to(pathlib.Path.home()):
        short = "~/" + path.relative_to(pathlib.Path.home()).as_posix()
    else:
        short = path.name or "/"
    return f"{name}{equals}{short}"


def public_text(value: object) -> str:
    """Returns a value as text, without the absolute part of a path in it.

    `folder:PATH` is one with a path, too.
    """
    if not isinstance(value, str):
        return str(value)
    if value.startswith("folder:"):
        return "folder:" + public_text(value.removeprefix("folder:"))
    return without_private_paths(value)


def _quote(word: str) -> str:
    """Quotes as `shlex.quote`, but lets the shell expand a leading `~/`."""
    return "~/" + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _devices() -> tuple[str, ...]:
    import jax

    kinds = [f"{device.platform} ({device.device_kind})" for device in jax.devices()]
    return tuple(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _settings() -> dict[str, str]:
    return {
        key: " ".join(map(without_private_paths, os.environ[key].split()))
        for key in SETTINGS
        if os.environ.get(key)
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _revision(source: pathlib.Path) -> str | None:
    """Returns the commit that holds `source`, or None if Git does not track it."""
    git = ("git", "-C", str(source.parent))
    if _output(*git, "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _output(*git, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    # Results that are being rewritten do not change the code that wrote them.
    results = ":(top,exclude)experiments/results"
    changes = _output(
        *(*git, "status", "--porcelain", "--untracked-files=no"), "--", ":/", results
    )
    return commit + ("+changes" if changes else "")


def _output(*command: str) -> str | None:
    """Returns a command's output; `None` if it fails, hangs or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
