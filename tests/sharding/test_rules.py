"""Rules place leaves; large ones are split without any."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from cnn_jax import sharding, trees

PARAMS = {
    "conv": {"kernel": jnp.zeros((3, 3, 64, 64)), "bias": jnp.zeros(64)},
    "head": {"kernel": jnp.zeros((512, 100))},
    "odd": {"kernel": jnp.zeros((129, 131))},
}


def specifications(tree, mesh="data=2,fsdp=4", **options):
    mesh = sharding.make_mesh(specification=mesh)
    found = sharding.state_shardings(tree, mesh, **options)
    return {name: leaf.spec for name, leaf in trees.named_leaves(found).items()}


def test_large_leaves_are_split_along_their_largest_dimension_that_divides():
    assert specifications(PARAMS) == {
        "conv/kernel": P(None, None, None, "fsdp"),
        "conv/bias": P(),
        "head/kernel": P("fsdp"),
        "odd/kernel": P(),
    }


def test_how_large_is_large_can_be_said():
    assert specifications(PARAMS, large_leaf=64)["conv/bias"] == P("fsdp")
    assert specifications(PARAMS, large_leaf=65)["conv/bias"] == P()


def test_without_the_axis_all_is_copied():
    assert set(specifications(PARAMS, mesh="data=8").values()) == {P()}


def test_the_first_rule_that_matches_places_parameters_and_moments_alike():
    state = {
        "params": PARAMS,
        "ema": PARAMS,
        "opt_state": jax.eval_shape(optax.adamw(1.0).init, PARAMS),
    }
    rules = [(r"head/kernel$", (None, "fsdp")), (r"kernel$", ())]
    found = specifications(state, rules=rules)
    heads = {name: spec for name, spec in found.items() if "head/" in name}
    assert len(heads) == 4
    assert set(heads.values()) == {P(None, "fsdp")}
    others = {spec for name, spec in found.items() if name.endswith("conv/kernel")}
    assert others == {P()}
    assert found["opt_state/0/count"] == P()


def test_all_rules_that_cannot_be_followed_are_listed():
    with pytest.raises(ValueError) as error:
        specifications(
            PARAMS,
            rules=[("nowhere", ()), ("bias", ("model",)), ("conv", ("fsdp", "fsdp"))],
        )
    text = str(error.value)
    assert "matches none of the 4 paths" in text
    assert "names ['model'], the mesh has ['data', 'fsdp']" in text
    assert "names an axis twice" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("bias", (None, "fsdp")), "2 dimensions for a leaf of 1"),
        (("odd/", ("fsdp",)), "fsdp of 4 devices does not divide 129"),
        (("(", ()), "no regular expression"),
    ],
)
def test_rules_that_do_not_fit_a_leaf_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        specifications(PARAMS, rules=[rule])


def test_bytes_are_counted_for_one_device():
    mesh = sharding.make_mesh(specification="fsdp=8")
    tree = {"w": jnp.zeros((512, 100)), "b": jnp.zeros(64, jnp.bfloat16)}
    shardings = sharding.state_shardings(tree, mesh)
    assert sharding.bytes_per_device(tree, shardings) == 512 * 100 * 4 // 8 + 128
