"""A plan says of a step what an independent compilation of it says."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax import sharding
from cnn_jax.files import json_value
from cnn_jax.planning.compiled import Answer, refused_bytes
from cnn_jax.planning.plan import make_plan, read_plan
from cnn_jax.planning.step import plan_step
from cnn_jax.planning.topology import find_devices, parse_topology
from cnn_jax.training import TrainState, train_step
from cnn_jax.training.optimizers.optimizer import make_optimizer

HLO = pathlib.Path(__file__).parent / "fixtures" / "lenet5_v5e_2x2.hlo.txt"


def compile_plainly(config, devices, image_shape):
    """Compiles the step with plain jax, on a mesh and with shardings made here."""
    mesh = jax.sharding.Mesh(devices, ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    model = cnn_jax.create_model(config.model, dtype=config.dtype)
    image = jax.ShapeDtypeStruct(
        (config.batch_size, *image_shape), jnp.dtype(config.dtype), sharding=split
    )
    label = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32, sharding=split)
    optimizer = make_optimizer(config, lambda step: 0.1)
    create = functools.partial(TrainState.create, model, optimizer)
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    state = jax.eval_shape(create, key, image)
    step = jax.jit(
        train_step,
        in_shardings=(everywhere, {"image": split, "label": split}, everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )
    return step.lower(state, {"image": image, "label": label}, key).compile(), state


def test_equals_an_independent_compilation(plan, config):
    program, state = compile_plainly(config, jax.devices()[:2], (32, 32, 1))
    assert plan.fits
    assert plan.flops == pytest.approx(program.cost_analysis()["flops"], rel=0.01)
    memory = program.memory_analysis()
    found = plan.memory["activations"] + plan.memory["temporaries"]
    assert found == pytest.approx(memory.temp_size_in_bytes, rel=0.01)
    assert plan.memory["parameters"] == 4 * 61_706
    leaves = jax.tree.leaves(state.opt_state)
    assert plan.memory["optimizer"] == sum(leaf.nbytes for leaf in map(_zeros, leaves))
    assert plan.memory["batch"] == 4 * (32 * 32 * 4 + 4)


def _zeros(leaf):
    return jnp.zeros(leaf.shape, leaf.dtype)


def test_the_parts_of_the_memory_sum_to_the_total(plan):
    parts = {k: v for k, v in plan.memory.items() if k not in ("total", "available")}
    assert sum(parts.values()) == plan.memory["total"]
    assert plan.memory["available"] is None


def test_what_a_cpu_does_not_tell_is_unknown_and_not_zero(plan):
    assert plan.cycles is None
    assert plan.without_estimate is None
    assert plan.cycles_per_image is plan.seconds_per_image is None
    assert plan.speed["images_per_second"] is plan.speed["mfu"] is None
    assert plan.roofline["intensity"] > 0
    assert plan.roofline["bound"] is None
    (reduce,) = plan.collectives
    assert (reduce.kind, reduce.axes) == ("all-reduce", "data")
    assert reduce.payload_bytes >= 4 * 61_706


def test_a_plan_is_kept(plan, cache, config):
    topology = parse_topology("cpu:2")
    again = make_plan(config, topology, find_devices(topology), cache=cache)
    assert again.compiler["was_cached"]
    assert again.memory == plan.memory
    assert json_value(again.to_dict())["settings"]["batch_size"] == 8


@pytest.fixture(scope="module")
def recorded(config):
    """A plan for v5e:2x2 from a recorded program, on a mesh of simulated devices."""
    topology = parse_topology("v5e:2x2")
    config = dataclasses.replace(config, batch_size=128, dtype="bfloat16")
    model = cnn_jax.create_model("lenet5", dtype="bfloat16")
    step = plan_step(model, config, jax.devices()[:4], (32, 32, 1), platform="tpu")
    memory = {"arguments": 700_000, "outputs": 600_000, "aliases": 599_000}
    memory |= {"temporaries": 2_000_000, "code": 9}
    answer = Answer(
        *(HLO.read_text(), {"flops": 8e7, "bytes accessed": 25e6}, memory, ""),
        *(50.0, {"jax": "0.12.0.1", "libtpu": "0.0.50.1"}),
    )
    paths = ("c1", "c3", "c5", "f6", "head")
    return read_plan(step, answer, topology, paths, macs=416_520, was_cached=True)


def test_the_attribution_to_layers_sums_to_the_total(recorded):
    assert recorded.cycles == 160_649
    assert sum(row["cycles"] for row in recorded.layers) == recorded.cycles
    for row in recorded.layers:
        assert row["forward"] + row["backward"] + row["update"] == row["cycles"]
    assert sum(row["count"] for row in recorded.layers) == 50


def test_the_ten_most_expensive_instructions(recorded):
    cycles = [row["cycles"] for row in recorded.expensive]
    assert len(cycles) == 10
    assert cycles == sorted(cycles, reverse=True)
    assert recorded.expensive[0]["layer"] == "c3"
    assert recorded.expensive[0]["part"] == "backward"


def test_speed_and_roofline_follow_from_the_chip(recorded):
    clock = 197e12 / (4 * 2 * 128 * 128)
    seconds = recorded.cycles / clock + recorded.speed["collective_seconds"]
    assert recorded.speed["step_seconds"] == pytest.approx(seconds)
    rate = recorded.speed["images_per_second"]
    assert rate == pytest.approx(128 / seconds)
    assert recorded.speed["mfu"] == pytest.approx(6 * 416_520 * rate / (4 * 197e12))
    assert recorded.roofline["bound"] == "memory"
    assert recorded.roofline["ridge"] == pytest.approx(197e12 / 819e9)
    assert recorded.memory["available"] == 16 * 2**30
    # All of them are kept in another memory than the main one.
    assert recorded.memory["activations"] == 0
    assert recorded.fits


def test_a_refused_step_does_not_fit(recorded, config):
    topology = parse_topology("v5e:2x2")
    model = cnn_jax.create_model("lenet5", dtype="bfloat16")
    step = plan_step(model, config, jax.devices()[:4], (32, 32, 1), platform="tpu")
    refusal = "RESOURCE_EXHAUSTED: ... Used 17.50G of 15.75G hbm. Exceeded ..."
    answer = Answer("", {}, {}, refusal, 1.0, {})
    plan = read_plan(step, answer, topology, (), macs=1, was_cached=False)
    assert not plan.fits
    assert plan.memory["total"] == int(17.5 * 2**30)
    assert plan.memory["available"] == int(15.75 * 2**30)
    assert plan.cycles is plan.flops is None
    assert plan.layers == plan.expensive == []
    # Its collectives are not none: they are unknown.
    assert plan.speed["collective_seconds"] is None


def test_devices_that_share_an_image_have_a_part_of_it(config):
    topology = parse_topology("v5e:2x2")
    changed = dataclasses.replace(config, batch_size=2, mesh="data=1,spatial=4")
    model = cnn_jax.create_model("lenet5")
    step = plan_step(model, changed, jax.devices()[:4], (32, 32, 1), platform="tpu")
    answer = Answer(HLO.read_text(), {}, {}, "", 1.0, {})
    found = read_plan(step, answer, topology, (), macs=1, was_cached=False)
    assert found.devices["images"] == 0.5
    assert found.cycles_per_image == 2 * found.cycles
    odd = dataclasses.replace(found, settings={**found.settings, "batch_size": 6})
    assert odd.cycles_per_image == pytest.approx(found.cycles * 4 / 6)


def test_reads_what_the_compiler_refused():
    assert refused_bytes("Used 512.00M of 1.5G hbm") == (2**29, 3 * 2**29)
    message = "for HLO temporaries (111.25G) exceeds available HBM (15.75G). HLO"
    assert refused_bytes(message) == (int(111.25 * 2**30), int(15.75 * 2**30))
    assert refused_bytes("anything else") == (None, None)


def test_a_split_state_and_remat_are_planned(config):
    devices = jax.devices()[:4]
    split = dataclasses.replace(config, mesh="data=2,fsdp=2")
    model = cnn_jax.create_model("lenet5")
    whole = plan_step(model, config, devices, (32, 32, 1), platform="cpu")
    step = plan_step(model, split, devices, (32, 32, 1), platform="cpu")
    assert step.kept_bytes()["parameters"] < whole.kept_bytes()["parameters"]
    assert sharding.num_batch_shards(step.mesh) == 4


def test_what_does_not_go_together_is_an_error(config):
    topology = parse_topology("cpu:2")
    devices = find_devices(topology)
    for changes, words in (
        ({"batch_size": 7}, "batch_size: got 7"),
        ({"mesh": "data=3"}, "mesh: got data=3"),
        ({"batch_norm_scope": 3}, "batch_norm_scope: got 3"),
        ({"model": "resnet51"}, "resnet50"),
        ({"optimizer": "adam"}, "optimizer: got 'adam'"),
    ):
        changed = dataclasses.replace(config, **changes)
        with pytest.raises(ValueError, match=words):
            make_plan(changed, topology, devices, cache=None)
