"""Programs that fork what is to be killed, one of each for all tests of a worker."""

import pathlib
import tempfile

import pytest
from helpers.run_files import read_end

from faults.experiments import Experiment
from faults.forks import Server
from faults.sweep import start_server


@pytest.fixture(scope="session")
def saver():
    """Returns a function that has a plan carried out and returns the exit status."""
    server = Server("saver.py")
    yield server
    server.close()


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """The same for the plans of whole runs."""
    server = start_server(tmp_path_factory.mktemp("runner"))
    yield server
    server.close()


@pytest.fixture
def open_path():
    """A directory that every user may enter and write into."""
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name)
        path.chmod(0o777)
        yield path


@pytest.fixture
def experiment(runner, open_path):
    """An experiment whose run directory does not exist yet."""
    return Experiment(runner, open_path / "run")


@pytest.fixture(scope="session")
def undisturbed(runner, tmp_path_factory):
    """Returns the experiment's end without a fault."""
    alone = Experiment(runner, tmp_path_factory.mktemp("undisturbed") / "run")
    assert alone.start() == 0, alone.output
    return read_end(alone.run_dir)
