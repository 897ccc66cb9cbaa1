"""The presets of the ImageNet recipes."""

import importlib.util
import json
import math
import sys

import pytest

from cnn_jax import models, sharding
from cnn_jax.data import host, prepare
from cnn_jax.planning.plan import make_plan
from cnn_jax.planning.topology import (
    find_devices,
    parse_topology,
    prepare_environment,
)

MACHINES = ("v5e_8", "v5e_256", "v4_32", "gpu_8")
RECIPES = ("imagenet_resnet50", "imagenet_resnet50_sam", "imagenet_efficientnet_b0")
each_recipe = pytest.mark.parametrize("recipe", RECIPES)
each_machine = pytest.mark.parametrize("machine", MACHINES)


@pytest.fixture(scope="module")
def table(load_experiment, experiments_directory):
    """The module that lists the presets of all recipes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(experiments_directory))
        yield load_experiment("preset_table")


@each_recipe
def test_every_recipe_has_every_machine(table, recipe):
    assert tuple(table.RECIPES[recipe][1]) == (*MACHINES, "smoke")


@each_recipe
@each_machine
def test_a_preset_is_valid_and_fits_its_machine(table, recipe, machine):
    config = table.configured(recipe, machine)
    config.validate()
    preset = table.RECIPES[recipe][1][machine]
    sizes = sharding.parse_mesh(config.mesh)
    if preset.topology is not None:
        _, _, sides = preset.topology.partition(":")
        assert math.prod(map(int, sides.split("x"))) == sizes["data"]
    assert (preset.topology is None) == (machine == "gpu_8")
    per_device, rest = divmod(config.batch_size, sizes["data"])
    assert rest == 0
    scope = config.batch_norm_scope
    sharing = 1 if scope == "device" else scope
    assert sizes["data"] % sharing == 0
    # The sources normalise by 32 images or more.
    assert per_device * sharing >= 32


@each_recipe
@each_machine
def test_the_learning_rate_is_proportional_to_the_batch(table, recipe, machine):
    own, presets = table.RECIPES[recipe]
    config = presets[machine].applied_to(own)
    ratio = config.batch_size / own.batch_size
    assert config.learning_rate == pytest.approx(ratio * own.learning_rate)
    # Up to where Goyal et al. found the rule to hold.
    assert config.batch_size <= 8192


@each_recipe
def test_the_smoke_preset_changes_no_part_of_the_recipe(table, recipe):
    own, presets = table.RECIPES[recipe]
    config = presets["smoke"].applied_to(own)
    config.validate()
    for name in ("optimizer", "schedule", "label_smoothing", "augmentation", "model"):
        assert getattr(config, name) == getattr(own, name)


@each_recipe
def test_a_recipe_says_what_it_aims_at(load_experiment, recipe, table):
    text = " ".join(load_experiment(recipe).__doc__.split())
    assert "Aims at a top-1 accuracy of 7" in text
    assert "arXiv:" in text
    assert "has not been run here" in text


@each_recipe
def test_a_recipes_names_are_known(table, recipe):
    config, _ = table.RECIPES[recipe]
    assert config.model in models.list_models()
    assert config.dataset in prepare.RECIPES
    assert config.augmentation in host.POLICIES


def test_rows_have_what_a_planner_needs(table):
    rows = table.rows()
    assert len(rows) == len(RECIPES) * (len(MACHINES) + 1)
    (row,) = (
        row
        for row in rows
        if (row["experiment"], row["preset"]) == ("imagenet_efficientnet_b0", "v5e_256")
    )
    expected = {
        "model": "efficientnet_b0",
        "topology": "v5e:16x16",
        "batch_size": 4096,
        "mesh": "data=256",
        "parallel": "shard_map",
        "dtype": "bfloat16",
        "batch_norm_scope": 8,
        "optimizer": "rmsprop",
        "learning_rate": 0.08,
    }
    assert {name: row[name] for name in expected} == expected


def test_the_table_is_printed(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preset_table.py", "--json"])
    table.main()
    assert json.loads(capsys.readouterr().out) == table.rows()
    monkeypatch.setattr(sys, "argv", ["preset_table.py"])
    table.main()
    assert "v5e:16x16" in capsys.readouterr().out


@pytest.mark.nightly
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs libtpu: pip install "cnn_jax[tpu]"',
)
@each_recipe
@pytest.mark.parametrize("machine", ["v5e_8", "v4_32", "v5e_256"])
def test_the_compiler_finds_room_for_it(table, recipe, machine, tmp_path):
    prepare_environment()
    topology = parse_topology(table.RECIPES[recipe][1][machine].topology)
    config = table.configured(recipe, machine)
    plan = make_plan(config, topology, find_devices(topology), cache=tmp_path)
    assert plan.fits, plan.memory
