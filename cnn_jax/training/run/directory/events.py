"""TensorBoard's event files, written where the numbers are reported.

`tensorboardX.SummaryWriter` hands every number to a thread. When that cannot write, on
a full disk say, it ends without a word, and the run waits for it forever as soon as
the queue is full. Here an error is the caller's.

A file is a sequence of records, TensorFlow's TFRecord: the length of the data (uint64,
little-endian), a masked CRC-32C of that, the data (an `Event`), a masked CRC-32C of it.
"""

from __future__ import annotations

import os
import pathlib
import re
import socket
import struct
import time
from collections.abc import Mapping

from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

_PREFIX = "events.out.tfevents."


class EventFile:
    """Appends scalars to a new event file.

    Args:
      directory: Where the file is made.
      purge_step: From which step on TensorBoard forgets what earlier files hold; None
        for nothing.

    Attributes:
      path: The file.

    Raises:
      OSError: If it cannot be written, as by every method.
    """

    def __init__(self, directory: pathlib.Path, *, purge_step: int | None = None):
        # TensorBoard reads files by name, so the time comes first, and one behind that
        # of every file there is, since a clock may have been set back.
        times = map(_begun, directory.glob(f"{_PREFIX}*"))
        begun = max(int(time.time()), 1 + max(times, default=-1))
        self._lead = begun - time.monotonic()
        name = f"{begun:010}.{socket.gethostname()}.{os.getpid()}"
        self.path: pathlib.Path = directory / f"{_PREFIX}{name}"
        self._file = open(self.path, "xb")  # noqa: SIM115
        self._write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=purge_step, session_log=start))
        self._file.flush()

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Appends one number for each tag, and hands them to the system."""
        entries = [
            Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in values.items()
        ]
        self._write(Event(step=step, summary=Summary(value=entries)))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; called again, it does nothing."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = self._lead + time.monotonic()
        data = event.SerializeToString()
        for content in (struct.pack("<Q", len(data)), data):
            self._file.write(content)
            self._file.write(struct.pack("<I", record_writer.masked_crc32c(content)))


def _begun(path: pathlib.Path) -> int:
    """Returns the time in an event file's name, -1 if it is of another kind."""
    text = path.name.removeprefix(_PREFIX).partition(".")[0]
    return int(text) if re.fullmatch("[0-9]{1,10}", text) else -1
