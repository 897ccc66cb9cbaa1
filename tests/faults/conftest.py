"""A saver to kill, shared by all tests of a worker."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def saver():
    """Returns a function that has a plan carried out and returns the exit status."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", ROOT / "tests" / "faults" / "saver.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def carry_out(**plan):
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield carry_out
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()
