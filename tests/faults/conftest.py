"""Programs that fork what is to be killed, one of each for all tests of a worker."""

import pytest

from faults.forks import Server


@pytest.fixture(scope="session")
def saver():
    """Returns a function that has a plan carried out and returns the exit status."""
    server = Server("saver.py")
    yield server
    server.close()
