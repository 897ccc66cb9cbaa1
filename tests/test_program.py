"""Descriptors, signals and warnings of a program, in processes of their own."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import cnn_jax
from cnn_jax import program

ROOT = pathlib.Path(__file__).parents[1]
NUMBERS = [signal.SIGTERM, signal.SIGINT]


def start(code, **options):
    """Starts a program, and waits until it says that it has begun."""
    # A shell has its background jobs ignore SIGINT.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}\nfrom cnn_jax import program\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "begun\n", process.stderr.read()
    return process


def end(process, *numbers):
    """Sends signals, and returns the exit status, the lines of stderr and seconds."""
    started = time.monotonic()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.3)
    _, error = process.communicate(timeout=60)
    return process.returncode, error.splitlines(), time.monotonic() - started


# Neither runs a handler: a library's call, such as the compiler's, and a callback whose
# errors Python ignores.
LONG_CALL = (
    "threading.Timer(0.5, print, ['begun']).start(); "
    "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
)
IGNORED = "Ignoring()"
WAITING = "print('begun'); time.sleep(60)"
DEFINITIONS = """
import hashlib, threading, time
class Ignoring:
    def __del__(self):
        while True:
            try:
                print("begun")
                time.sleep(30)
            except BaseException: pass
"""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("code", [LONG_CALL, WAITING])
def test_a_signal_before_a_run_ends_it_with_75_and_a_sentence(code, number):
    process = start(f"{DEFINITIONS}\nprogram.begin()\n{code}")
    status, lines, seconds = end(process, number)
    assert status == 75
    assert lines == [
        f"{number.name}: stopped before there was anything to save; the same command "
        "starts again."
    ]
    assert seconds < 10


UNWINDING = f"""
{DEFINITIONS}
program.LONGEST_CALL, program.LONGEST_UNWINDING = 1, 2
import sys
try:
    with program.signals(is_run=IS_RUN):
        try:
            CODE
        finally:
            print("undone")
except program.Stopped as stopped:
    sys.exit(program.status_of(stopped, is_run=IS_RUN))
"""


def unwinding(code, *, is_run=True):
    return start(UNWINDING.replace("IS_RUN", str(is_run)).replace("CODE", code))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("is_run", [True, False])
def test_a_signal_undoes_what_was_begun(number, is_run):
    process = unwinding(WAITING, is_run=is_run)
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == (75 if is_run else 128 + number)
    assert output == "undone\n"
    assert len(error.splitlines()) == 1
    assert error.startswith(f"{number.name}: stopped before ")


@pytest.mark.parametrize("code", [LONG_CALL, IGNORED])
def test_a_signal_that_nobody_hears_ends_the_process(code):
    process = unwinding(code)
    status, lines, _ = end(process, signal.SIGTERM)
    assert (status, len(lines)) == (75, 1)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("code", [LONG_CALL, IGNORED, WAITING])
def test_signals_say_what_they_are_told_to(code, number):
    process = unwinding(f"program.signals_say('it is over.'); {code}")
    status, lines, _ = end(process, number)
    assert (status, lines) == (75, [f"{number.name}: it is over."])


def interrupt(text):
    if text is not None:
        program.signals_say(text)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def test_what_signals_say_ends_with_them():
    program.signals_say("nothing listens")
    for text, said in (("it is over.", "it is over."), (None, "stopped before there")):
        with pytest.raises(program.Stopped) as error, program.signals(is_run=True):
            interrupt(text)
        assert error.value.sentence.startswith(f"SIGTERM: {said}")


def test_a_second_signal_ends_at_once():
    process = unwinding(f"program.LONGEST_CALL = 100; {LONG_CALL}")
    status, lines, _ = end(process, signal.SIGTERM, signal.SIGINT)
    assert (status, lines) == (128 + signal.SIGINT, [])


def test_in_an_interactive_session_signals_stay_pythons():
    code = """
import sys; sys.ps1 = ">>> "
program.begin()
try:
    with program.signals(is_run=True):
        print("begun")
        while True: pass
except program.Stopped:
    print("stopped")
except KeyboardInterrupt:
    print("interrupted")
"""
    process = start(code)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"


def swallow():
    with contextlib.suppress(KeyboardInterrupt):  # as libraries do that try something
        os.kill(os.getpid(), signal.SIGTERM)


def defer():
    with program.starting_processes():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("lose", [swallow, defer])
def test_a_signal_is_not_lost_before_the_end(lose):
    with pytest.raises(program.Stopped, match="SIGTERM"), program.signals(is_run=False):
        lose()


def test_signals_do_afterwards_what_they_did():
    before = [signal.getsignal(number) for number in NUMBERS]
    with program.signals(is_run=False):
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert signal.set_wakeup_fd(-1) == -1


CLOSED = """
import os, sys
import cnn_jax
from cnn_jax import program
program.begin()
with open(sys.argv[1], "w") as file:
    file.write("saved")
    file.flush()
    for descriptor in (1, 2):
        os.write(descriptor, b"a library prints")
    print("a message", flush=True)
    print("a message", file=sys.stderr)
    sys.stdin.read()
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path, closed):
    command = f'{sys.executable} -c "$0" "$1" {closed}'
    done = subprocess.run(
        ["bash", "-c", command, CLOSED, tmp_path / "file"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "saved"


def test_what_python_cannot_flush_does_not_change_the_status(tmp_path):
    code = "program.begin(); import warnings; warnings.warn('x' * 10000)"
    command = f'{sys.executable} -c "from cnn_jax import program; {code}" 2>/dev/full'
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


def test_warnings_are_escaped():
    code = "program.begin(); import warnings; warnings.warn('\\x1b]0;title\\x07')"
    done = subprocess.run(
        [sys.executable, "-c", f"from cnn_jax import program; {code}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "UserWarning: \\x1b]0;title\\x07\n" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_parsers_errors_are_escaped(capsys):
    def parse():
        print("unknown: \x1b[31m", file=sys.stderr)
        raise SystemExit(2)

    with pytest.raises(SystemExit):
        program.parsed(parse, ["--\x1b[31m"])
    assert capsys.readouterr().err == "unknown: \\x1b[31m\n"
    assert program.parsed(lambda: 1, ["--\x1b[31m"]) == 1


def test_nothing_is_imported_before_signals_are_heard():
    code = "from cnn_jax import program; import sys; print('jax' in sys.modules)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code + "; import cnn_jax.cli; print('jax' in sys.modules)",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]


def test_names_that_are_not_imported_yet_are_listed():
    found = dir(cnn_jax)
    assert {"fit", "create_model", "kernels", "__version__"} <= set(found)
    for name in cnn_jax.__all__:
        assert name in found
        getattr(cnn_jax, name)


ENDING = """
import multiprocessing, sys, time, weakref
OWN
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
worker.start()
class Kept: pass
kept = Kept()
kept.itself, kept.end = kept, weakref.finalize(kept, print, "freed")
try:
    with program.signals(is_run=True):
        print("begun")
        time.sleep(60)
except program.Stopped as stopped:
    print(worker.pid)
    sys.exit(program.status_of(stopped, is_run=True))
"""


@pytest.mark.parametrize("own", ["program.begin()", "program.own_process()", ""])
def test_what_a_signal_interrupted_leaves_without_pythons_own_end(own):
    """That end waits for the worker, and frees what other threads may still use."""
    process = start(ENDING.replace("OWN", own))
    process.send_signal(signal.SIGTERM)
    pid = int(process.stdout.readline())
    if not own:  # the process is another program's, and ends as that would have it
        os.kill(pid, signal.SIGKILL)
    # All is read once the worker, which holds the pipes too, has ended. `communicate`
    # would miss what has been read with the line before.
    with process:
        output, error = process.stdout.read(), process.stderr.read()
    assert process.returncode == 75
    assert error.startswith("SIGTERM: stopped before ")
    assert output == ("" if own else "freed\n")


COMPILING = """
import sys
program.own_process()
import jax, jax.numpy as jnp

def grow(x):
    for index in range(2_000):
        x = jnp.sin(x) @ jnp.cos(x + index)
    return x

lowered = jax.jit(grow).lower(jnp.ones((8, 8)))
try:
    with program.signals(is_run=False):
        print("begun")
        while True:
            lowered.compile()
except program.Stopped as stopped:
    sys.exit(program.status_of(stopped, is_run=False))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_an_interrupted_compilation_crashes_nothing(number):
    """It goes on in a thread of the compiler's, which Python's end frees."""
    process = start(COMPILING)
    time.sleep(1.0)
    status, lines, _ = end(process, number)
    assert status == 128 + number
    assert lines == [f"{number.name}: stopped before it was done."]
