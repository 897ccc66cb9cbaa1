"""Files, metadata and terminal output that all studies have in common."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from cnn_jax import files, messages, program
from cnn_jax.checkpoint import DirectoryInUseError
from cnn_jax.report import html, table
from cnn_jax.report.environment import Environment
from cnn_jax.report.words import duration
from cnn_jax.training.run.stopping import STOPPED_EXIT_CODE, RunStoppedError


class StudyConfig(Protocol):
    """A frozen dataclass with where a study's files go."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def run_dir(self) -> str | None:
        """The directory; None for a new one."""

    @property
    def resume(self) -> bool:
        """Returns whether to resume the study that is in the directory."""


Config = TypeVar("Config", bound=StudyConfig)


@dataclasses.dataclass(frozen=True)
class Shown:
    """The terminal output of a finished study.

    Attributes:
      tables: Its tables.
      summary: Its outcome in one paragraph.
      failures: One sentence for each run that did not finish.
    """

    tables: Sequence[table.Table]
    summary: str
    failures: Sequence[str] = ()


def conduct(
    config: Config,
    run: Callable[[Config], Shown],
    *,
    name: str,
    subject: str,
) -> int:
    """Runs a study, and prints its results or why it cannot be run.

    Args:
      config: What is studied. Without a `run_dir` it gets a new one below `runs/NAME`.
      run: Does it, and writes the report into `run_dir`. A ValueError,
        FileNotFoundError, FileExistsError or DirectoryInUseError of it is printed as
        one sentence.
      name: The program's name.
      subject: What the directory is called after, such as the dataset.

    Returns:
      The exit status: 0, 1 if a run did not finish, 2 if nothing could be run, 75 if a
      signal stopped a run that is saved, 130 after an interrupt between runs.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return _fail(
            "The report needs matplotlib. Install it: pip install 'cnn_jax[report]'"
        )
    if config.run_dir is not None and not config.run_dir.strip():
        return _fail(f"run_dir: got {config.run_dir!r}, expected a directory's name.")
    if config.run_dir is None and not config.resume:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        directory = f"runs/{name}/{re.sub('[/:]', '-', subject)}-{stamp}"
        config = dataclasses.replace(config, run_dir=directory)
    if config.run_dir is not None:
        directory = os.path.expanduser(config.run_dir)
        config = dataclasses.replace(config, run_dir=directory)
    started = time.perf_counter()
    try:
        with program.signals(is_run=True):
            shown = run(config)
    except (
        ValueError,
        FileNotFoundError,
        FileExistsError,
        DirectoryInUseError,
    ) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, RunStoppedError) as error:
        messages.warn(
            f"\nInterrupted. To continue: add --run-dir {config.run_dir} --resume"
        )
        is_saved = isinstance(error, RunStoppedError | program.Stopped)
        return program.leaving(STOPPED_EXIT_CODE if is_saved else 130)
    console = messages.console(sys.stdout)
    for each in shown.tables:
        console.print()
        table.print_table(each, console)
    summary = messages.printable(shown.summary, keep="\n")
    console.print(f"\n{summary}\n", markup=False)
    messages.say(f"Everything took {duration(time.perf_counter() - started)}.")
    assert config.run_dir is not None  # a resumed study had one, too
    messages.say(f"Report: {pathlib.Path(config.run_dir) / 'report.html'}")
    return 1 if shown.failures else 0


def _fail(message: str) -> int:
    messages.warn(f"error: {message}")
    return 2


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes plain values, dataclasses and intervals; NaN becomes null."""
    text = json.dumps(files.json_value(content), indent=2, allow_nan=False)
    files.write_text(path, text + "\n")


def public(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields without the paths on this machine."""
    return {k: v for k, v in fields.items() if k not in ("run_dir", "data_dir")}


def interval_note(num_seeds: int) -> str:
    """Returns what `statistics.accuracy_interval` means for so many seeds."""
    if num_seeds == 1:
        return (
            "One seed: the 95 % interval is Wilson's, of the drawing of the test "
            "examples; what another seed would change is not in it."
        )
    return (
        f"Mean of {num_seeds} seeds; the 95 % interval is Student's t over the seeds, "
        "on this one test split."
    )


def recipe(config: Any, *left_out: str) -> str:
    """Returns the set fields of a configuration in one line, without some.

    Nor with those that hold paths.
    """
    fields = public(dataclasses.asdict(config))
    return "; ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in fields.items()
        if name not in (*left_out, "resume") and value is not None
    )


def making(
    command: str, environment: Environment, facts: Mapping[str, str]
) -> html.Section:
    """Returns the section with the commands that repeat the study."""
    return html.Section(
        "How this was made",
        [html.Code(command), html.Facts({**environment.facts(), **facts})],
    )
