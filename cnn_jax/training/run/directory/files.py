"""The files of a run: configuration, metrics, events, result.

A module of its own beside the loop, because what a run leaves behind is a contract:

    config.json          the configuration, what the model is, versions and dataset
                         fingerprints
    metrics.jsonl        one JSON object a line: {"event": "step" | "epoch", ...}
    events.out.tfevents* the same numbers for TensorBoard
    checkpoints/         see cnn_jax.checkpoint; elsewhere with `checkpoint_dir`
    result.json          written at the end
    report.html          see cnn_jax.report.run_page; written by experiments, for each
                         run of a study too, and by write_run_page after `fit`

Every line of `metrics.jsonl` carries the number of finished steps. A run that is
resumed at step s first drops the lines beyond s, so that its file ends equal to that of
a run that was left alone, but for what a clock wrote (`CLOCKED`).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

from cnn_jax.files import json_value, naming, write_text
from cnn_jax.training.run.directory.events import EventFile

CLOCKED = ("seconds", "images_per_second", "waiting_share")
"""Fields of a line that no two runs have alike."""


class RunFiles:
    """Writes the files of one run.

    Args:
      directory: The run directory, created if missing.
      resume: Whether a run that it already holds is to be continued.
      writes: False in all but one of several processes, which then writes nothing.

    Raises:
      FileExistsError: If it holds a run and `resume` is False.
      OSError: If something cannot be written, here and by every method; it names the
        file.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, resume: bool, writes: bool = True
    ):
        self._writes = writes
        self.directory: pathlib.Path = pathlib.Path(directory).expanduser().absolute()
        self._metrics_path = self.directory / "metrics.jsonl"
        self._metrics: TextIO | None = None
        self._events: EventFile | None = None
        if not writes:
            return
        if self.holds_run and not resume:
            raise FileExistsError(
                f"{self.directory} already holds a run. Continue it with resume "
                "(--resume), or choose another directory (--run-dir)."
            )
        self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def holds_run(self) -> bool:
        """True if a run was started in this directory."""
        return (self.directory / "config.json").exists()

    @property
    def checkpoints(self) -> pathlib.Path:
        """The directory of the checkpoints."""
        return self.directory / "checkpoints"

    def open(self, description: Mapping[str, Any], *, step: int, epoch: int) -> None:
        """Starts writing behind a step and so many epochs, dropping the lines beyond.

        At the end of an epoch's steps its evaluation may still be to come.
        """
        if not self._writes:
            return
        self.write_json("config.json", description)
        kept = _lines_up_to(self._metrics_path, step, epoch) if step else []
        write_text(self._metrics_path, "".join(kept))
        self._metrics = open(self._metrics_path, "a", encoding="utf-8")  # noqa: SIM115
        with naming(self.directory):
            self._events = EventFile(
                self.directory, purge_step=step + 1 if step else None
            )

    def write_metrics(self, event: str, values: Mapping[str, Any]) -> None:
        """Appends a line, and the same numbers as TensorBoard scalars."""
        if not self._writes:
            return
        assert self._metrics is not None  # it is open
        assert self._events is not None
        line = json.dumps({"event": event, **json_value(values)})
        with naming(self._metrics_path):
            self._metrics.write(line + "\n")
            # Handed to the system now: a killed process loses no line that it reported.
            self._metrics.flush()
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

    def __enter__(self) -> RunFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        # Every line was handed over when it was reported. What is still held back could
        # not be written, which was said then.
        for file in (self._metrics, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


def _lines_up_to(path: pathlib.Path, step: int, epoch: int) -> list[str]:
    kept = []
    if path.exists():
        # From bytes, since the parser then knows what a byte-order mark is.
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                found = json.loads(line)
            except ValueError:  # a line torn by the kill, hence the last one
                break
            ends_epoch = found["event"] == "epoch"
            if found["step"] > step or (ends_epoch and found["epoch"] > epoch):
                break
            kept.append(line.decode("utf-8-sig"))
    return kept
