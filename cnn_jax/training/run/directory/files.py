"""The files of a run: configuration, metrics, events, result.

A module of its own beside the loop, because what a run leaves behind is a contract:

    config.json          the configuration, what the model is, versions and dataset
                         fingerprints
    metrics.jsonl        one JSON object a line: {"event": "step" | "epoch", ...}
    events.out.tfevents* the same numbers for TensorBoard
    checkpoints/         see cnn_jax.checkpoint; elsewhere with `checkpoint_dir`
    result.json          written at the end
    scores.json          see cnn_jax.evaluation.of_run; of the test split, written by
                         experiments
    report.html          see cnn_jax.report.run_page; written by experiments, for each
                         run of a study too, and by write_run_page after `fit`

    lock                 the process that writes here; see `cnn_jax.checkpoint.lock`

Every line of `metrics.jsonl` carries the number of finished steps. A run that is
resumed at step s first drops the lines beyond s, so that its file ends equal to that of
a run that was left alone, but for what a clock wrote (`CLOCKED`). What the run did not
write like that is set aside as `metrics.jsonl.damaged`; see
`cnn_jax.training.run.directory.metrics`. An `environment` line says what changed where
a run was resumed elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pathlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from cnn_jax.checkpoint.lock import DirectoryLock, lock_new
from cnn_jax.files import json_value, naming, open_unlinked, whole_file, write_text
from cnn_jax.messages import warn
from cnn_jax.training.run.directory.events import EventFile
from cnn_jax.training.run.directory.metrics import Written, line_of, lines_up_to

CLOCKED = ("seconds", "images_per_second", "waiting_share")
"""Fields of a line that no two runs have alike."""

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"


class RunFiles:
    """Writes the files of one run.

    From the start until `__exit__` it holds the directory's lock.

    Args:
      directory: The run directory, created if missing.
      resume: Whether a run that it already holds is to be continued.
      writes: False in all but one of several processes, which then writes nothing.

    Raises:
      FileExistsError: If it holds a run and `resume` is False.
      DirectoryInUseError: If another run writes into it.
      OSError: If something cannot be written, here and by every method, or a file to be
        written is a link or no regular file; it names the file.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, resume: bool, writes: bool = True
    ):
        self._writes = writes
        self.directory: pathlib.Path = pathlib.Path(directory).expanduser().absolute()
        self._metrics_path = self.directory / METRICS
        self._metrics: IO[bytes] | None = None
        self._events: EventFile | None = None
        self._lock: DirectoryLock | None = None
        if not writes:
            return
        if not resume:
            check_is_new(self.directory)
        self._lock = lock_new(self.directory)
        try:
            if not resume:  # by now another run may have been here
                check_is_new(self.directory)
            for name in (CONFIG, METRICS, RESULT):
                _check_replaceable(self.directory / name)
        except BaseException:
            self._lock.release()
            raise

    @property
    def checkpoints(self) -> pathlib.Path:
        """The directory of the checkpoints."""
        return self.directory / "checkpoints"

    @property
    def written(self) -> Written:
        """Returns what the metrics hold, for the checkpoint that is saved now."""
        return Written(self._num_lines, self._size, self._hash.hexdigest())

    def sharing_lock(self) -> contextlib.AbstractContextManager[None]:
        """Lets what is opened in the same directory within a block share the lock."""
        return contextlib.nullcontext() if self._lock is None else self._lock.sharing()

    def open(
        self,
        description: Mapping[str, Any],
        *,
        step: int,
        epoch: int,
        history: Sequence[Mapping[str, Any]] | None = None,
        written: Written | None = None,
        changes: Sequence[Mapping[str, Any]] = (),
        new_change: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts writing behind a step and so many epochs, dropping the lines beyond.

        At the end of an epoch's steps its evaluation may still be to come.

        Args:
          description: The content of `config.json`.
          step: Where the run goes on; 0 to start from scratch. Lines that are there
            then belong to steps that are lost, and are set aside.
          epoch: The number of epochs that are over.
          history: Their numbers, from which their lines are made again if need be.
          written: What was written by then, as the checkpoint says.
          changes: The environment's changes before, `{"step", "changed"}`.
          new_change: That of now, if there is one.
        """
        if not self._writes:
            return
        is_old = (self.directory / CONFIG).exists()
        self.write_json(CONFIG, description)
        content = b""
        if step:
            found = lines_up_to(
                self._metrics_path,
                step,
                history,
                epoch=epoch,
                written=written,
                changes=changes,
            )
            content = found.content
            if found.problem is not None:
                self._set_aside(METRICS, "damaged", found.problem)
        elif _has_content(self._metrics_path):
            self._set_aside(METRICS, "unsaved", "has lines of steps that were lost")
        with whole_file(self._metrics_path) as file:
            file.write(content)
        self._hash = hashlib.sha256(content)
        self._size, self._num_lines = len(content), content.count(b"\n")
        self._metrics = open(  # noqa: SIM115
            self._metrics_path, "ab", opener=open_unlinked
        )
        if new_change is not None:
            self._write_line(line_of("environment", new_change))
        with naming(self.directory):
            self._events = EventFile(
                self.directory, purge_step=step + 1 if step or is_old else None
            )

    def write_metrics(self, event: str, values: Mapping[str, Any]) -> None:
        """Appends a line, and the same numbers as TensorBoard scalars."""
        if not self._writes:
            return
        assert self._events is not None  # it is open
        self._write_line(line_of(event, values))
        scalars = {
            f"{event}/{name}": value
            for name, value in values.items()
            if name not in ("step", "epoch")
        }
        with naming(self._events.path):
            self._events.add_scalars(scalars, values["step"])

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a whole file, or leaves the old one."""
        if not self._writes:
            return
        text = json.dumps(json_value(content), indent=2)
        write_text(self.directory / name, text + "\n")

    def set_result_aside(self, problem: str) -> None:
        """Renames a `result.json` that cannot be read, and says so."""
        self._set_aside(RESULT, "damaged", problem)

    def __enter__(self) -> RunFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        # Every line was handed over when it was reported. What is still held back could
        # not be written, which was said then.
        for file in (self._metrics, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        if self._lock is not None:
            self._lock.release()

    def _write_line(self, line: bytes) -> None:
        assert self._metrics is not None  # it is open
        with naming(self._metrics_path):
            self._metrics.write(line)
            # Handed to the system now: a killed process loses no line that it reported.
            self._metrics.flush()
        self._hash.update(line)
        self._size += len(line)
        self._num_lines += 1

    def _set_aside(self, name: str, kind: str, problem: str) -> None:
        path = self.directory / name
        where = ""
        if os.path.lexists(path):
            aside = _free_path(self.directory / f"{name}.{kind}")
            os.rename(path, aside)
            where = f" (what was there is now {aside.name})"
        warn(f"{path} {problem}{where}.")


def holds_run(directory: pathlib.Path) -> bool:
    """Returns whether a run was started in a directory."""
    if any(os.path.lexists(directory / name) for name in (CONFIG, RESULT)):
        return True
    return _has_content(directory / METRICS) or any(
        path.name.isdecimal() for path in (directory / "checkpoints").glob("*")
    )


def check_is_new(directory: pathlib.Path) -> None:
    """Refuses to begin a run where there is one.

    Raises:
      FileExistsError: If the directory holds a run.
    """
    if holds_run(directory):
        raise FileExistsError(
            f"{directory} already holds a run. Continue it with resume (--resume), or "
            "choose another directory (--run-dir)."
        )


def _has_content(path: pathlib.Path) -> bool:
    try:
        return os.lstat(path).st_size > 0
    except OSError:
        return False


def _check_replaceable(path: pathlib.Path) -> None:
    """Refuses what is replaced, or read, by another file's name."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        problem = "a link, or no regular file: remove it"
        raise OSError(errno.EMLINK, problem, os.fspath(path))


def _free_path(path: pathlib.Path) -> pathlib.Path:
    """Returns a path, or the first of `PATH-2`, `PATH-3` ... that is free."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    paths: Iterable[pathlib.Path] = itertools.chain([path], others)
    return next(path for path in paths if not os.path.lexists(path))
