"""One plan of a small network for two simulated devices, compiled once."""

import jax
import pytest

from cnn_jax.planning.plan import make_plan
from cnn_jax.planning.topology import find_devices, parse_topology
from cnn_jax.training import TrainConfig

TOPOLOGY = "cpu:2"


@pytest.fixture(scope="session", autouse=True)
def devices():
    """Starts all simulated devices, before a topology asks for fewer of them."""
    return jax.devices()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="session")
def config():
    return TrainConfig(model="lenet5", batch_size=8, dtype="float32")


@pytest.fixture(scope="session")
def plan(cache, config):
    topology = parse_topology(TOPOLOGY)
    return make_plan(config, topology, find_devices(topology), cache=cache)
