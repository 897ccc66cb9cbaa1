"""Selecting parameters by path, and digests that prove bitwise equality."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import trees

TREE = {
    "stem": {"kernel": np.ones((3, 3)), "bias": np.zeros(3)},
    "norm": {"scale": np.ones(3), "bias": np.zeros(3)},
}


def test_names_follow_every_kind_of_container():
    point = collections.namedtuple("point", "x y")
    tree = {"a": [1, (2, None)], "b": point(3, {"c": 4})}
    assert trees.named_leaves(tree) == {"a/0": 1, "a/1/0": 2, "b/x": 3, "b/y/c": 4}


def test_a_mask_marks_what_any_pattern_finds():
    chex.assert_trees_all_equal(
        trees.path_mask(TREE, ["kernel$", "^norm/bias$"]),
        {
            "stem": {"kernel": True, "bias": False},
            "norm": {"scale": False, "bias": True},
        },
    )
    assert trees.path_mask(TREE, "stem")["stem"] == {"kernel": True, "bias": True}


def test_a_pattern_without_a_match_is_an_error_that_shows_near_paths():
    with pytest.raises(ValueError, match=r"'stem/kernl' matches none.*stem/kernel"):
        trees.path_mask(TREE, ["bias$", "stem/kernl"])
    with pytest.raises(ValueError, match="no regular expression"):
        trees.path_mask(TREE, "(")


def test_specs_describe_abstract_leaves_too():
    abstract = jax.eval_shape(lambda: {"w": jnp.zeros((2, 3), jnp.bfloat16)})
    assert trees.leaf_specs(abstract) == {"w": "bfloat16[2,3]"}


def test_a_digest_ignores_where_and_how_a_tree_is_kept():
    on_device = jax.tree.map(jnp.asarray, TREE)
    on_host = jax.tree.map(np.asarray, on_device)
    swapped = {name: on_host[name] for name in reversed(on_host)}
    assert len({trees.digest(tree) for tree in (on_device, on_host, swapped)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.array([0.0, 1.0])},
        {"a": np.array([-0.0, 1.0], np.float32)},
        {"a": np.array([0.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)},
        {"a": np.array([[0.0, 1.0]], np.float32)},
        {"b": np.array([0.0, 1.0], np.float32)},
        {"a": {"": np.array([0.0, 1.0], np.float32)}},
        {"a": np.array([0.0, 1.0], np.float32), "b": np.zeros(0)},
    ],
    ids=["dtype", "sign of zero", "last bit", "shape", "name", "depth", "extra"],
)
def test_a_digest_sees_every_difference(other):
    assert trees.digest({"a": np.array([0.0, 1.0], np.float32)}) != trees.digest(other)


def test_a_digest_covers_random_keys_and_equal_nans():
    assert trees.digest(jax.random.key(1)) != trees.digest(jax.random.key(2))
    nan = {"x": np.array([np.nan])}
    assert trees.digest(nan) == trees.digest({"x": np.array([np.nan])})


def test_the_first_pattern_that_matches_chooses():
    tree = {"a": {"kernel": 0, "bias": 0}, "b": {"kernel": 0}}
    chosen = trees.choose_by_path(tree, [("^a/", 1), ("kernel$", 2)], 3)
    assert chosen == {"a": {"kernel": 1, "bias": 1}, "b": {"kernel": 2}}
    assert trees.choose_by_path(tree, [], 3)["b"] == {"kernel": 3}
    with pytest.raises(ValueError, match="matches none"):
        trees.choose_by_path(tree, [("gone", 1)], 3)
    assert trees.choose_by_path(tree["b"], [("gone", 1)], 3, allow_unmatched=True) == {
        "kernel": 3
    }


def test_leaves_are_arranged_as_the_template_s():
    point = collections.namedtuple("point", "x y")
    template = point(jax.ShapeDtypeStruct((3,), "float32"), {"b": np.zeros(2)})
    tree = {"y": {"b": np.ones(2)}, "x": np.arange(3, dtype=np.float32)}
    arranged = trees.arrange_like(template, tree, name="tree")
    assert isinstance(arranged, point)
    assert arranged.x is tree["x"]
    assert arranged.y["b"] is tree["y"]["b"]


def test_leaves_that_do_not_fit_are_listed_all_at_once():
    tree = {
        "stem": {"kernel": np.ones((3, 2)), "bias": np.zeros(3, np.float32)},
        "norm": {"scale": np.ones(3)},
        "more": np.ones(1),
    }
    with pytest.raises(ValueError, match="weights: got others than") as error:
        trees.arrange_like(TREE, tree, name="weights")
    problems = [
        "  norm/bias: got nothing, expected float64[3]",
        "  stem/bias: got float32[3], expected float64[3]",
        "  stem/kernel: got float64[3,2], expected float64[3,3]",
    ]
    unknown = "  more: got float64[1], expected no such leaf"
    assert str(error.value).splitlines()[1:] == [unknown, *problems]
    with pytest.raises(ValueError, match="weights") as error:
        trees.arrange_like(TREE, tree, name="weights", allow_unknown=True)
    assert str(error.value).splitlines()[1:] == problems
    fitting = {**TREE, "more": np.ones(1)}
    chex.assert_trees_all_equal(
        trees.arrange_like(TREE, fitting, name="weights", allow_unknown=True), TREE
    )
