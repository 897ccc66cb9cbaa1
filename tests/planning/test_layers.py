"""Operations are given to the layers and passes that they come from."""

import pytest
from planning.test_hlo import TEXT

import cnn_jax
from cnn_jax.planning.hlo import read_instructions
from cnn_jax.planning.layers import (
    ARGUMENTS,
    BACKWARD,
    FORWARD,
    LOSS,
    OPTIMIZER,
    UNNAMED,
    UPDATE,
    WHOLE,
    Place,
    module_paths,
    place_all,
    place_of,
)

PATHS = {"stem", "stem/conv", "block1", "block1/conv1", "block1/conv1/norm"}


@pytest.mark.parametrize(
    ("op_name", "place"),
    [
        ("jit(f)/jvp(ResNet)/stem/conv/jit(conv)/cond/dot", ("stem/conv", FORWARD)),
        ("jit(f)/transpose(jvp(ResNet))/stem/conv/dot", ("stem/conv", BACKWARD)),
        (
            "jit(f)/jvp(ResNet)/block1/conv1/norm/norm._moved/add",
            ("block1/conv1/norm", FORWARD),
        ),
        ("jit(f)/jvp(ResNet)/block1/add", ("block1", FORWARD)),
        ("jit(f)/jvp(ResNet)/reduce_sum", (WHOLE, FORWARD)),
        ("jit(f)/jvp()/reduce_sum", (LOSS, FORWARD)),
        ("jit(f)/transpose(jvp())/mul", (LOSS, BACKWARD)),
        ("jit(f)/shard_map/jvp(ResNet)/stem/add", ("stem", FORWARD)),
        ("jit(f)/add", (OPTIMIZER, UPDATE)),
        ("jit(f)/mul;jit(f)", (OPTIMIZER, UPDATE)),
        ("jit(f)/jvp(N)/stem/add;jit(f)/jvp(N)/block1/add", ("stem", FORWARD)),
        (r"batch[\'image\']", (ARGUMENTS, UPDATE)),
        ("", (UNNAMED, UPDATE)),
        (
            "jit(f)/transpose(jvp(ResNet))/jvp(ResNet)/checkpoint/"
            "rematted_computation/block1/conv1/conv/dot",
            ("block1/conv1", BACKWARD),
        ),
        (
            "jit(f)/transpose(jvp(Net))/jvp(Net)/checkpoint/rematted_computation/"
            "Net.run/block1/conv1/add",
            ("block1/conv1", BACKWARD),
        ),
        ("jit(f)/jvp(Net)/Net.run/reduce_window_sum", (WHOLE, FORWARD)),
    ],
)
def test_finds_the_layer_and_the_pass(op_name, place):
    assert place_of(op_name, PATHS) == Place(*place)


def test_paths_are_those_of_modules_and_blocks():
    model = cnn_jax.create_model("resnet20")
    paths = module_paths(model, (32, 32, 3))
    assert {"stem", "stem/conv", "stage1_block1", "stage3_block3/conv2"} <= paths


def test_a_recorded_program_is_placed():
    model = cnn_jax.create_model("lenet5")
    instructions = read_instructions(TEXT)
    places = place_all(instructions, module_paths(model, (32, 32, 1)))
    layers = {place.layer for place in places.values()}
    assert {"c1", "c3", "c5", "f6", "head"} <= layers
    parts = {place.part for place in places.values()}
    assert parts == {FORWARD, BACKWARD, UPDATE}
