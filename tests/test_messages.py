"""Messages that are escaped, and that nothing depends on."""

import subprocess
import sys

import pytest

from cnn_jax import messages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tabby cat, Größe 猫 🐈", "tabby cat, Größe 猫 🐈"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\u202eb", "a\\u202eb"),
        ("\udcff", "\\udcff"),
        ("a\nb\r", "a\nb\\r"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_what_is_not_printable_is_escaped(text, expected):
    assert messages.printable(text, keep="\n") == expected


def run_python(code, redirection):
    command = f"{sys.executable} -c '{code}' {redirection}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60
    )


CODE = """
from cnn_jax.messages import say, warn
say("one"); say("two"); print("three")
open("{}", "w").write("saved")
"""


@pytest.mark.parametrize(
    "redirection", [">/dev/full", "| true; exit ${PIPESTATUS[0]}", ">&-", ">&- 2>&-"]
)
def test_output_that_cannot_be_written_ends_nothing(tmp_path, redirection):
    path = tmp_path / "saved"
    done = run_python(CODE.format(path), redirection)
    assert done.returncode == 0, done.stderr
    assert path.read_text() == "saved"


def test_a_full_output_is_reported_once(tmp_path):
    done = run_python(CODE.format(tmp_path / "saved"), ">/dev/full")
    assert done.stderr.count("standard output cannot be written") == 1


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    code = 'from cnn_jax.messages import say; say("Gr\\u00f6\\u00dfe")'
    done = run_python(code, f"> {tmp_path}/out")
    assert done.returncode == 0
    done = run_python(
        'import sys; sys.stdout.reconfigure(encoding="ascii"); ' + code, ""
    )
    assert done.stdout == "Gr\\xf6\\xdfe\n", done


STEADY = """
import sys
from cnn_jax.messages import Steady, settle
import rich.console
for stream in (sys.stdout, sys.stderr):
    rich.console.Console(file=Steady(stream)).print("a table")
    Steady(stream).write("more")
    print("x" * 5000, file=stream, end="")
settle()
open("{}", "w").write("saved")
"""


@pytest.mark.parametrize(
    "redirection",
    [">/dev/full 2>/dev/full", "2>&1 | true; exit ${PIPESTATUS[0]}", ">&- 2>&-"],
)
def test_what_libraries_print_ends_nothing(tmp_path, redirection):
    path = tmp_path / "saved"
    code = STEADY.format(path).replace('print("x"', 'stream and print("x"')
    done = run_python(code, redirection)
    assert done.returncode == 0
    assert path.read_text() == "saved"


def test_a_stream_for_libraries_is_as_good_as_standard_output(capsys):
    steady = messages.Steady(sys.stdout)
    assert steady.write("\x1b[1mbold") == 8
    assert not steady.isatty()
    assert not messages.Steady(None).isatty()
    assert steady.encoding == sys.stdout.encoding
    assert capsys.readouterr().out == "\x1b[1mbold"
