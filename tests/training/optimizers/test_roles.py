"""Batch norm, head and depth are found without looking at a name."""

import types

import jax
import jax.numpy as jnp
import pytest
from helpers.staged import HEAD, IMAGES, NORMS, StagedNet

from cnn_jax import create_model, list_models, model_info, trees
from cnn_jax.training import TrainConfig
from cnn_jax.training.optimizers.roles import (
    ParameterRoles,
    backbone_pattern,
    head_parameters,
    norm_parameters,
    parameter_depths,
    required_roles,
)


def shapes_of(model, images=IMAGES):
    return jax.eval_shape(
        lambda key, images: model.init(key, images, train=False),
        jax.eval_shape(jax.random.key, 0),
        images,
    )


def test_norms_are_what_keeps_statistics():
    shapes = shapes_of(StagedNet())
    assert norm_parameters(shapes["params"], shapes["batch_stats"]) == NORMS
    assert norm_parameters(shapes["params"], {}) == frozenset()


def test_the_head_is_what_a_model_without_classes_lacks():
    assert head_parameters(StagedNet(), IMAGES) == HEAD
    mask = trees.path_mask(
        shapes_of(StagedNet())["params"], backbone_pattern(StagedNet(), IMAGES)
    )
    chosen = {path for path, is_chosen in trees.named_leaves(mask).items() if is_chosen}
    assert chosen == {"first/kernel", "second/kernel", *NORMS}


def test_depth_counts_the_stages_behind():
    assert parameter_depths(StagedNet(), IMAGES) == {
        "head/kernel": 0,
        "head/bias": 0,
        "first/kernel": 1,
        "first_norm/scale": 1,
        "first_norm/bias": 1,
        "second/kernel": 2,
        "second_norm/scale": 2,
        "second_norm/bias": 2,
    }


def test_a_plain_network_is_as_deep_as_its_layers():
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    found = parameter_depths(create_model("lenet5"), images)
    by_layer = {path.partition("/")[0]: depth for path, depth in found.items()}
    assert by_layer == {"c1": 4, "c3": 3, "c5": 2, "f6": 1, "head": 0}


def test_no_more_is_found_than_is_needed():
    # A model that cannot even be initialised.
    assert required_roles(TrainConfig(), object(), IMAGES) == ParameterRoles()


def test_models_that_cannot_tell_are_refused(tiny_net):
    with pytest.raises(ValueError, match="no endpoints"):
        parameter_depths(tiny_net(), IMAGES)
    for model in (StagedNet(num_classes=0), types.SimpleNamespace()):
        with pytest.raises(ValueError, match="num_classes"):
            head_parameters(model, IMAGES)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "family", sorted({model_info(n).family for n in list_models()})
)
def test_every_family_has_a_head_behind_its_stages(family):
    infos = [info for info in map(model_info, list_models()) if info.family == family]
    info = min(infos, key=lambda info: info.parameters)
    model = create_model(info.name)
    images = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
    head, depths = head_parameters(model, images), parameter_depths(model, images)
    params = shapes_of(model, images)["params"]
    assert set(depths) == set(trees.named_leaves(params))
    assert head == {path for path in head if depths[path] == 0}
    # What is behind all endpoints is the head, or an auxiliary classifier.
    rest = {path for path, depth in depths.items() if depth == 0} - head
    assert all(path.startswith("aux") for path in rest)
    assert max(depths.values()) >= 3
