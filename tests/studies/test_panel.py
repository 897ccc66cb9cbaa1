"""Parts that a study may consist of."""

import pytest

from cnn_jax.studies import Effect, Panel, Study, Variant, network


def test_an_effect_of_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="got plain56, expected variants of the panel"):
        Panel(
            *("depth", "Depth", "?"),
            variants=(Variant("plain20", network("plain20")),),
            effects=(Effect("x", "plain56", "plain20", "train_loss", "higher"),),
        )


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="got speed, expected some of test_accuracy"):
        Panel("depth", "Depth", "?", columns=("speed",))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Panel("depth", "Depth", "?"), "expected names all different"),
        (
            Panel("b", "B", "?", variants=(Variant("plain20", network("plain32")),)),
            "variant 'plain20': got two that differ",
        ),
    ],
    ids=["panels", "variants"],
)
def test_two_of_a_name_are_refused(second, message):
    variant = Variant("plain20", network("plain20"))
    first = Panel("depth", "Depth", "?", variants=(variant,))
    with pytest.raises(ValueError, match=message):
        Study("s", "S", (first, second), {}, {})


def test_a_reduced_panel_has_the_variants_of_its_last_effect():
    names = ("a", "b", "c")
    variants = tuple(Variant(name, network("lenet5")) for name in names)
    panel = Panel(
        *("p", "P", "?"),
        variants=variants,
        effects=(
            Effect("one", "a", "b", "gap", "lower"),
            Effect("two", "c", "b", "gap", "lower"),
        ),
    )
    assert [variant.name for variant in panel.reduced().variants] == ["b", "c"]
