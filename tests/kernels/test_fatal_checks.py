"""No input ends the process: degenerate geometries, drawn in processes of their own."""

import os
import subprocess
import sys

import pytest
from helpers import degenerate


def run(*arguments):
    """Runs the draws, and returns the finished process and what it announced last."""
    process = subprocess.run(
        [sys.executable, degenerate.__file__, "0", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    announced = [
        line for line in process.stdout.splitlines() if line.startswith("program")
    ]
    return process, announced[-1] if announced else "program none"


@pytest.mark.parametrize(
    "programs",
    [
        pytest.param(range(3), id="24 draws"),
        *(
            pytest.param(
                range(first, first + 21),
                id=f"draws {8 * first} to {8 * first + 168}",
                marks=pytest.mark.nightly,
            )
            for first in (0, 21, 42)
        ),
    ],
)
def test_degenerate_geometries_neither_abort_nor_are_wrong(programs):
    process, last = run(*programs)
    if process.returncode < 0:
        process, last = run(last.split()[1], "--each")
    assert process.returncode == 0, f"{last}\n{process.stderr[-3000:]}"
    counts = [
        line.split()[1:]
        for line in process.stdout.splitlines()
        if line.startswith("passed")
    ]
    right, refused = (sum(map(int, column)) for column in zip(*counts, strict=True))
    assert right + refused == len(programs) * degenerate.DRAWS_PER_PROGRAM
    assert right > refused
