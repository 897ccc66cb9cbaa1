"""ShuffleNets of the second version, as torchvision names them."""

from collections.abc import Mapping

from cnn_jax.models.shufflenet_v2 import ShuffleNetV2
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_DENSE,
    TORCH_NORM,
    KeyMaps,
    Leaf,
    Rule,
)


def _unit_rule(branch: int, place: int, name: str, layout: Mapping[str, Leaf]) -> Rule:
    """Returns the rule of one layer of all units; torchvision's first stage is 2."""
    return Rule(
        rf"stage([2-4])\.(\d)\.branch{branch}\.{place}",
        lambda stage, unit: f"stage{stage - 1}_block{unit + 1}/{name}",
        layout,
    )


RULES = (
    Rule(r"conv1\.0", "stem/conv", TORCH_CONV),
    Rule(r"conv1\.1", "stem/norm", TORCH_NORM),
    _unit_rule(1, 0, "shortcut/depthwise/conv", TORCH_CONV),
    _unit_rule(1, 1, "shortcut/depthwise/norm", TORCH_NORM),
    _unit_rule(1, 2, "shortcut/pointwise/conv", TORCH_CONV),
    _unit_rule(1, 3, "shortcut/pointwise/norm", TORCH_NORM),
    _unit_rule(2, 0, "pointwise/conv", TORCH_CONV),
    _unit_rule(2, 1, "pointwise/norm", TORCH_NORM),
    _unit_rule(2, 3, "separable/depthwise/conv", TORCH_CONV),
    _unit_rule(2, 4, "separable/depthwise/norm", TORCH_NORM),
    _unit_rule(2, 5, "separable/pointwise/conv", TORCH_CONV),
    _unit_rule(2, 6, "separable/pointwise/norm", TORCH_NORM),
    Rule(r"conv5\.0", "last_conv/conv", TORCH_CONV),
    Rule(r"conv5\.1", "last_conv/norm", TORCH_NORM),
    Rule("fc", "head", TORCH_DENSE),
)

KEY_MAPS: KeyMaps = {ShuffleNetV2: {"torchvision": lambda model: RULES}}
