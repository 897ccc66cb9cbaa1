"""EfficientNets, as torchvision names both versions and timm the smaller of the first.

timm's own EfficientNets have the same batch normalisation in all sizes, and its second
version other channels: from B5 on they are other networks under the same names.
"""

import functools
from collections.abc import Sequence

from cnn_jax.models.efficientnet import EfficientNet
from cnn_jax.pretrained.key_maps.timm_blocks import inverted_bottlenecks
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_CONV_AS_DENSE,
    TORCH_DENSE,
    TORCH_NORM,
    KeyMaps,
    Rule,
)


def _parts(model: EfficientNet, stage: int) -> Sequence[str]:
    """Returns the parts of a block, in torchvision's order."""
    if stage > len(model.stages):
        return ()  # of another model, where the loader will name it
    described = model.stages[stage - 1]
    if described.fused:
        return ("fused", "project")
    parts = ("expand", "depthwise", "squeeze_excite", "project")
    return parts[1:] if described.expansion == 1 else parts


def torchvision(model: EfficientNet) -> tuple[Rule, ...]:
    """The stages are numbered through, with the stem in front and a layer behind."""
    last = len(model.stages) + 1
    block = r"features\.(\d+)\.(\d+)\.block\.(\d)"

    def path(stage: int, index: int, part: int, inner: str = "") -> str:
        parts = _parts(model, stage)
        name = parts[part] if part < len(parts) else f"part{part}"
        return f"stage{stage}_block{index + 1}/{name}/{inner}"

    return (
        Rule(r"features\.0\.0", "stem/conv", TORCH_CONV),
        Rule(r"features\.0\.1", "stem/norm", TORCH_NORM),
        Rule(rf"features\.{last}\.0", "last_conv/conv", TORCH_CONV),
        Rule(rf"features\.{last}\.1", "last_conv/norm", TORCH_NORM),
        Rule(rf"{block}\.0", lambda s, b, i: path(s, b, i, "conv"), TORCH_CONV),
        Rule(rf"{block}\.1", lambda s, b, i: path(s, b, i, "norm"), TORCH_NORM),
        Rule(
            rf"{block}\.fc1",
            lambda s, b, i: path(s, b, i, "squeeze"),
            TORCH_CONV_AS_DENSE,
        ),
        Rule(
            rf"{block}\.fc2",
            lambda s, b, i: path(s, b, i, "expand"),
            TORCH_CONV_AS_DENSE,
        ),
        Rule(r"classifier\.1", "head", TORCH_DENSE),
    )


def timm(model: EfficientNet) -> tuple[Rule, ...]:
    """Returns the rules, none if the network is not timm's."""
    fields = model.norm.keywords if isinstance(model.norm, functools.partial) else {}
    other_norm = "epsilon" in fields
    if other_norm or any(stage.fused for stage in model.stages):
        return ()
    return inverted_bottlenecks([stage.expansion != 1 for stage in model.stages])


KEY_MAPS: KeyMaps = {EfficientNet: {"torchvision": torchvision, "timm": timm}}
