"""Xception, as Keras names its layers."""

from cnn_jax.models.xception import Xception
from cnn_jax.pretrained.rules import (
    KERAS_CONV,
    KERAS_DENSE,
    KERAS_NORM,
    KERAS_SEPARABLE_DEPTHWISE,
    KERAS_SEPARABLE_POINTWISE,
    KeyMaps,
    Rule,
)


def _conv(block: int, conv: int) -> str:
    """Blocks 2, 3 and 13 halve the resolution; 4 does so before the middle flow's."""
    if block < 4:
        return f"stage{block - 1}_block1/conv{conv}"
    if block < 13:
        return f"stage3_block{block - 3}/conv{conv}"
    return f"stage4_block{block - 12}/conv{conv}"


def _shortcut(number: int | str) -> str:
    """The four shortcuts have no names of their own: Keras numbers them."""
    return f"stage{int(number or 0) + 1}_block1/shortcut"


SEPARABLE = r"block(\d+)_sepconv(\d)"

RULES = (
    Rule(r"block1_conv(\d)", "stem_conv{}/conv".format, KERAS_CONV),
    Rule(r"block1_conv(\d)_bn", "stem_conv{}/norm".format, KERAS_NORM),
    Rule(
        SEPARABLE,
        lambda *found: f"{_conv(*found)}/depthwise",
        KERAS_SEPARABLE_DEPTHWISE,
    ),
    Rule(
        SEPARABLE,
        lambda *found: f"{_conv(*found)}/pointwise",
        KERAS_SEPARABLE_POINTWISE,
    ),
    Rule(SEPARABLE + "_bn", lambda *found: f"{_conv(*found)}/norm", KERAS_NORM),
    Rule(r"conv2d(?:_(\d+))?", lambda n: f"{_shortcut(n)}/conv", KERAS_CONV),
    Rule(
        r"batch_normalization(?:_(\d+))?",
        lambda n: f"{_shortcut(n)}/norm",
        KERAS_NORM,
    ),
    Rule("predictions", "head", KERAS_DENSE),
)

KEY_MAPS: KeyMaps = {Xception: {"keras": lambda model: RULES}}
