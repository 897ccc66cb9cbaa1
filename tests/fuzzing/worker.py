"""A process that mutates and reads, and reports each outcome as a line of JSON.

    python -m fuzzing.worker FORMAT DIRECTORY FIRST_SEED NUM_SEEDS

Before a seed it prints `{"begins": SEED}`, and then the outcome, so that whoever
started it knows which one has killed it. What a reader must not do is seen by an audit
hook: open a file for writing or change one outside of the directory, import, start a
process, connect, unpickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from fuzzing.formats import Format, load_format
from fuzzing.mutations import mutate, replace_by_special

MAX_SECONDS = 10.0
"""A longer time for one file is a failure."""

_SPECIAL_SHARE = 0.02
"""The share of mutations that put a pipe, a device or nothing in a file's place."""

_ALWAYS_IMPORTED = ("encodings", "unicodedata")
"""Modules that Python imports to decode names, and to parse letters."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
_CHANGES += ("os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree")
_COMMANDS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
_COMMANDS += ("os.spawn", "pty.spawn", "socket.connect", "socket.bind", "ctypes.dlopen")
_COMMANDS += ("socket.getaddrinfo", "urllib.Request", "pickle.find_class")


@dataclasses.dataclass
class Outcome:
    """The outcome of one mutation.

    Attributes:
      seed: Its seed.
      mutated: Which file was mutated, or became what.
      end: `"read"`, `"refused"` or what was wrong.
      text: The error, if there was one.
      seconds: How long it took.
      bytes: How much more memory it took than there was before.
    """

    seed: int
    mutated: str = ""
    end: str = "read"
    text: str = ""
    seconds: float = 0.0
    bytes: int = 0


class Watch:
    """Notes what a reader must not do, while it is active.

    Args:
      directory: Where it may write.
      allowed_imports: The packages that it may import.
    """

    def __init__(self, directory: pathlib.Path, allowed_imports: tuple[str, ...]):
        self.active = False
        self.seen: list[str] = []
        self._inside = os.path.join(os.path.realpath(directory), "")
        self._allowed = allowed_imports
        sys.addaudithook(self._audit)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.seen.clear()
        self.active = True
        try:
            yield
        finally:
            self.active = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & _WRITES if isinstance(flags, int) else False
            writes = writes or (isinstance(mode, str) and set(mode) & set("wax+"))
            if writes and not self._is_inside(path):
                self.seen.append(f"wrote {path!r}")
        elif event == "import":
            name = arguments[0]
            if name.partition(".")[0] not in (*_ALWAYS_IMPORTED, *self._allowed):
                self.seen.append(f"imported {name}")
        elif event in _CHANGES:
            paths = [each for each in arguments if isinstance(each, str | bytes)]
            if not all(map(self._is_inside, paths)):
                self.seen.append(f"{event} {paths}")
        elif event in _COMMANDS:
            self.seen.append(f"{event} {str(arguments)[:200]}")

    def _is_inside(self, path: Any) -> bool:
        if isinstance(path, int) or path == os.devnull:
            return True
        # Not `realpath`, which would follow what is to be opened: its place counts.
        path = os.path.abspath(os.fsdecode(path))
        parent = os.path.realpath(os.path.dirname(path))
        return os.path.join(parent, "").startswith(self._inside)


def main(name: str, directory: str, first: str, count: str) -> None:
    """Carries out the mutations of some seeds of a format."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no outcome
    faulthandler.enable()
    warnings.simplefilter("ignore")

    def say(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=channel, flush=True)

    work = pathlib.Path(directory)
    form = load_format(name)
    missing = [each for each in form.needs if importlib.util.find_spec(each) is None]
    if missing:
        say({"unavailable": ", ".join(missing)})
        return
    prepared = prepare(form, work)
    say({"ready": True})
    for seed in range(int(first), int(first) + int(count)):
        say({"begins": seed})
        say(dataclasses.asdict(carry_out(form, prepared, seed)))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The part that all mutations of a format have in common.

    Attributes:
      good: The directory of the good example.
      case: The directory that the mutated one is read in.
      beside: An empty directory: the working directory, and the home.
      watch: What notes that a reader does what it must not.
    """

    good: pathlib.Path
    case: pathlib.Path
    beside: pathlib.Path
    watch: Watch


def prepare(form: Format, work: pathlib.Path) -> Prepared:
    """Makes the good example and reads it, and some damaged ones.

    That imports what the format needs. It may not raise for the good one.
    """
    good, case, beside = work / "good", work / "case", work / "beside"
    for each in (good, beside, work / "temporary"):
        each.mkdir(parents=True, exist_ok=True)
    form.make(good)
    shutil.copytree(good, case, symlinks=True)
    form.read(case)
    watch = Watch(work, tuple(form.allowed_imports))
    os.chdir(beside)
    for name in ("HOME", "XDG_CACHE_HOME"):
        os.environ[name] = str(beside)
    os.environ["TMPDIR"] = str(work / "temporary")
    prepared = Prepared(good, case, beside, watch)
    for damage in (lambda content: b"", lambda content: content[: len(content) // 2]):
        for path in form.files(good):
            _copy(prepared)
            changed = case / path.relative_to(good)
            changed.write_bytes(damage(path.read_bytes()))
            with contextlib.suppress(Exception):
                form.read(case)
    return prepared


def carry_out(form: Format, prepared: Prepared, seed: int) -> Outcome:
    """Mutates, reads and judges."""
    outcome = Outcome(seed, apply(form, prepared, seed))
    before = _start_measuring()
    virtual = _status("VmSize")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Else a failure would take the machine's memory from everybody.
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2 * form.max_bytes, hard))
    error: BaseException | None = None
    started = time.monotonic()
    try:
        with prepared.watch():
            form.read(prepared.case)
    except BaseException as raised:
        error = raised
    finally:
        outcome.seconds = round(time.monotonic() - started, 3)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    outcome.bytes = max(0, _status("VmHWM") - before)
    if error is not None:
        outcome.text = str(error)[:2000]
    outcome.end = _outcome_of(prepared, outcome, error, form.max_bytes)
    if outcome.end not in ("read", "refused") and error is not None:
        lines = traceback.format_exception(error)
        outcome.text += "\n" + "".join(lines)[-3000:]
    del error
    if seed % 20 == 0:
        gc.collect()
    return outcome


def apply(form: Format, prepared: Prepared, seed: int) -> str:
    """Puts the mutated example in its place; returns which file was mutated."""
    generator = random.Random(f"{form.name}:{seed}")
    _copy(prepared)
    path = generator.choice(form.files(prepared.case))
    mutated = str(path.relative_to(prepared.case))
    if generator.random() < _SPECIAL_SHARE:
        mutated += " is " + replace_by_special(path, generator)
    else:
        content = path.read_bytes()
        path.write_bytes(mutate(content, generator, form.mutations_of(path)))
    if form.finish is not None:
        form.finish(prepared.case, generator)
    return mutated


def _outcome_of(
    prepared: Prepared,
    outcome: Outcome,
    error: BaseException | None,
    max_bytes: int,
) -> str:
    from cnn_jax.checkpoint import CheckpointError

    if prepared.watch.seen:
        return "; ".join(prepared.watch.seen[:5])
    if left := os.listdir(prepared.beside):
        shutil.rmtree(prepared.beside)
        prepared.beside.mkdir()
        return f"wrote {left} beside the file"
    if outcome.seconds > MAX_SECONDS:
        return f"took {outcome.seconds:.0f} s"
    if outcome.bytes > max_bytes:
        return f"took {outcome.bytes / 2**20:.0f} MiB"
    if error is None:
        return "read"
    if any(isinstance(each, MemoryError) for each in _chain(error)):
        return "asked for more memory than there is"
    if not isinstance(error, ValueError | OSError | CheckpointError):
        return f"raised {type(error).__name__}"
    if str(prepared.case) not in str(error):
        return "raised an error that does not name the path"
    return "refused"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _copy(prepared: Prepared) -> None:
    if os.path.lexists(prepared.case):
        shutil.rmtree(prepared.case)
    shutil.copytree(prepared.good, prepared.case, symlinks=True)


def _start_measuring() -> int:
    """Forgets the most memory so far; returns what there is now, in bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """Returns a number of this process in bytes, as Linux has it."""
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status: got no {name}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
