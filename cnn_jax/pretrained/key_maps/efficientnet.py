"""EfficientNets: both versions as torchvision names them, the Lite ones as others do.

timm's names are for the smaller ones of the first version and for the Lite ones. Its
own EfficientNets have the same batch normalisation in all sizes, and its second version
other channels: from B5 on they are other networks under the same names.
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
    torch_conv_then_norm,
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
    """The stages are numbered through, with the stem in front and a layer behind.

    None if padding is TensorFlow's: torchvision has no such network.
    """
    if _is_tensorflows(model):
        return ()
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
    # In timm those two go together: with TensorFlow's padding its epsilon.
    other_norm = ("epsilon" in fields) != _is_tensorflows(model)
    if other_norm or any(stage.fused for stage in model.stages):
        return ()
    return inverted_bottlenecks([stage.expansion != 1 for stage in model.stages])


def efficientnet_pytorch(model: EfficientNet) -> tuple[Rule, ...]:
    """The blocks are numbered through; none if padding is not TensorFlow's."""
    if not _is_tensorflows(model) or model.squeeze_ratio:
        return ()
    rules = [
        *torch_conv_then_norm("_conv_stem", "_bn0", "stem"),
        *torch_conv_then_norm("_conv_head", "_bn1", "last_conv"),
        Rule("_fc", "head", TORCH_DENSE),
    ]
    blocks = [
        f"stage{number}_block{index}"
        for number, stage in enumerate(model.stages, start=1)
        for index in range(1, stage.num_blocks + 1)
    ]
    for position, block in enumerate(blocks):
        for norm, part in enumerate(("expand", "depthwise", "project")):
            layer = rf"_blocks\.{position}\._"
            rules += torch_conv_then_norm(
                f"{layer}{part}_conv", f"{layer}bn{norm}", f"{block}/{part}"
            )
    return tuple(rules)


def _is_tensorflows(model: EfficientNet) -> bool:
    """Returns whether padding is TensorFlow's, which shows in the logits alone."""
    return model.padding == "SAME"


KEY_MAPS: KeyMaps = {
    EfficientNet: {
        "torchvision": torchvision,
        "timm": timm,
        "efficientnet_pytorch": efficientnet_pytorch,
    }
}
