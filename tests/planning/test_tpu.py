"""Plans for slices of TPUs, by libtpu's compiler where it is installed."""

import dataclasses
import importlib.util
import json

import pytest
from planning.test_plan import compile_plainly

from cnn_jax import cli, sharding
from cnn_jax.chips import CHIPS
from cnn_jax.planning.hlo import sum_cycles
from cnn_jax.planning.plan import make_plan
from cnn_jax.planning.topology import (
    find_devices,
    parse_topology,
    prepare_environment,
)
from cnn_jax.training import TrainConfig

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason='needs libtpu: pip install "cnn_jax[tpu]"',
    ),
]

TINY = TrainConfig(model="lenet5", batch_size=64, dtype="bfloat16")


def plan_for(name, config, cache):
    prepare_environment()
    topology = parse_topology(name)
    devices = find_devices(topology)
    return make_plan(config, topology, devices, cache=cache), devices


def assert_equal_compilations(plan, config, devices, image_shape):
    program, _ = compile_plainly(config, devices, image_shape)
    costs, memory = program.cost_analysis(), program.memory_analysis()
    assert plan.flops == pytest.approx(costs["flops"], rel=0.01)
    assert plan.bytes == pytest.approx(costs["bytes accessed"], rel=0.01)
    assert plan.cycles == pytest.approx(sum_cycles(program.as_text())[0], rel=0.01)
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    assert plan.memory["total"] == pytest.approx(total, rel=0.01)
    assert sum(row["cycles"] for row in plan.layers) == plan.cycles


@pytest.mark.slow
def test_equals_an_independent_compilation(tmp_path):
    plan, devices = plan_for("v5e:2x2", TINY, tmp_path)
    assert plan.fits
    assert plan.devices["count"] == 4
    assert {row["layer"] for row in plan.layers} >= {"c1", "c3", "c5", "f6", "head"}
    assert [each.kind for each in plan.collectives] == ["all-reduce"]
    assert plan.speed["images_per_second"] > 0
    # The learning rate's schedule is a few scalars' arithmetic, and each scalar
    # instruction counts in so small a program: a constant rate here, and there.
    config = dataclasses.replace(TINY, schedule="constant", momentum=0.0)
    plan, _ = plan_for("v5e:2x2", config, tmp_path)
    assert_equal_compilations(plan, config, list(devices), (32, 32, 1))


@pytest.mark.slow
def test_a_batch_that_is_too_large_does_not_fit(tmp_path, capsys):
    arguments = ["lenet5", "--topology", "v5e:1x1", "--batch", str(2**22), "--json"]
    status = cli.main(["plan", *arguments, "--cache", str(tmp_path)])
    record = json.loads(capsys.readouterr().out)
    (plan,) = record["plans"]
    assert status == 1
    assert record["best"] is None
    assert not plan["fits"]
    assert plan["memory"]["total"] > plan["memory"]["available"]


@pytest.mark.nightly
def test_resnet50_equals_an_independent_compilation(tmp_path):
    config = TrainConfig(model="resnet50", batch_size=2048, dtype="bfloat16")
    plan, devices = plan_for("v5e:2x4", config, tmp_path)
    assert plan.fits
    assert_equal_compilations(plan, config, list(devices), (224, 224, 3))


@pytest.mark.slow
def test_a_pod_is_described():
    prepare_environment()
    topology = parse_topology("v4:8x8x16")
    assert topology.num_chips == 1024
    assert len(find_devices(topology)) == 1024


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("v2:2x2", 8), ("v3:2x2", 8), ("v4:2x2x1", 4), ("v5e:2x2", 4)),
        *(("v5p:2x2x1", 4), ("v6e:2x2", 4), ("tpu7x:2x2x1", 8)),
    ],
)
def test_every_chip_gives_a_mesh(name, count):
    prepare_environment()
    assert sharding.make_mesh(find_devices(parse_topology(name))).size == count


def test_every_chip_is_tried():
    (marks,) = test_every_chip_gives_a_mesh.pytestmark
    assert {name.partition(":")[0] for name, _ in marks.args[1]} == set(CHIPS)
