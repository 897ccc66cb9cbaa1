"""The values that the fields of registered models may have."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import cnn_jax
from cnn_jax.models import fields as allowed
from cnn_jax.models.registry import _FAMILY_OF, _MADE_APART

FIELDS = sorted(
    {
        (field.name, str(field.type), name)
        for name, family in sorted(_FAMILY_OF.items())
        for field in dataclasses.fields(family.module)
        if field.name not in _MADE_APART
    }
)
ONCE = list({field[:2]: field for field in reversed(FIELDS)}.values())

WRONG = {
    "NaN": math.nan,
    "infinity": math.inf,
    "negative": -1,
    "huge": 1e300,
    "tiny": 1e-300,
    "large": 10**12,
    "text": "a",
    "list": [1],
    "tuple of text": ("a", "b"),
    "tuple of NaN": (math.nan,) * 3,
    "tuple of large": (10**12,) * 3,
    "tuple of negative": (-1,) * 3,
    "dict": {},
}


@pytest.mark.parametrize(("field", "declared", "name"), ONCE)
def test_every_field_has_a_range(field, declared, name):
    known = {*allowed.RANGES, *allowed.STRUCTURES, *allowed.FUNCTIONS}
    assert field in known, "a new field needs a range in cnn_jax.models.fields"


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize(("field", "declared", "name"), ONCE)
def test_what_no_network_can_be_made_with_is_named(field, declared, name, kind):
    with pytest.raises(ValueError, match=rf"^{name}: {field}: got .*, expected ") as e:
        cnn_jax.create_model(name, **{field: WRONG[kind]})
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    "number", [10**12, -1, 2.5, True, "10", math.nan, 1e300, None, [10], 2**20 + 1]
)
def test_the_number_of_classes_is_a_whole_number_in_its_range(number):
    if number is None:
        assert cnn_jax.create_model("resnet20").num_classes == 10
        return
    with pytest.raises(ValueError, match="resnet20: num_classes: got"):
        cnn_jax.create_model("resnet20", num_classes=number)


def test_stages_have_as_many_widths_as_sizes():
    with pytest.raises(ValueError, match="stage_features: got 3 numbers, expected 2"):
        cnn_jax.create_model("resnet20", stage_sizes=(1, 1))
    cnn_jax.create_model("resnet20", stage_sizes=(1, 1), stage_features=(4, 8))


def test_all_mistakes_are_said_at_once():
    with pytest.raises(ValueError, match=r"stem_features: got 0.*; drop_block_rate: "):
        cnn_jax.create_model("resnet20", drop_block_rate=1.0, stem_features=0)


def test_every_variant_is_what_it_says():
    for name in cnn_jax.list_models():
        assert isinstance(cnn_jax.create_model(name), nn.Module)


@pytest.mark.parametrize(
    "changes",
    [
        {"drop_block_rate": 0.5, "drop_block_size": 2**15},
        {"stochastic_depth_rate": 1e-6, "drop_block_rate": 0},
    ],
)
def test_the_ends_of_the_ranges_give_finite_numbers(changes):
    model = cnn_jax.create_model(
        "resnet20", stage_sizes=(1,), stage_features=(4,), stem_features=4, **changes
    )
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = model.init(jax.random.key(1), images, train=False)

    @jax.jit
    def gradients(params):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return jnp.mean(logits**2)

        return jax.grad(loss)(params)

    for leaf in jax.tree.leaves(gradients(variables["params"])):
        assert jnp.isfinite(leaf).all()
