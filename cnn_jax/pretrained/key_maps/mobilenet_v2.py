"""MobileNet v2 and the MnasNets, which are the same module.

torchvision numbers the layers of both through all stages, and differs in how; timm
has one way.
"""

from collections.abc import Mapping

from cnn_jax.models.mobilenet_v2 import MobileNetV2
from cnn_jax.pretrained.key_maps.timm_blocks import inverted_bottlenecks
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_DENSE,
    TORCH_NORM,
    KeyMaps,
    Leaf,
    Rule,
    torch_conv_then_norm,
)

_HEAD = Rule(r"classifier\.1", "head", TORCH_DENSE)


def _mobilenet_v2(model: MobileNetV2) -> tuple[Rule, ...]:
    blocks = [
        (f"stage{number}_block{block}", stage.expansion != 1)
        for number, stage in enumerate(model.stages, start=1)
        for block in range(1, stage.num_blocks + 1)
    ]
    rules = [*torch_conv_then_norm(r"features\.0\.0", r"features\.0\.1", "stem")]
    for index, (path, expands) in enumerate(blocks, start=1):
        # The projection stands in one list with what comes before it.
        prefix = rf"features\.{index}\.conv\."
        before = ["expand", "depthwise"] if expands else ["depthwise"]
        for place, name in enumerate(before):
            conv, norm = rf"{prefix}{place}\.0", rf"{prefix}{place}\.1"
            rules += torch_conv_then_norm(conv, norm, f"{path}/{name}")
        conv, norm = f"{prefix}{len(before)}", f"{prefix}{len(before) + 1}"
        rules += torch_conv_then_norm(conv, norm, f"{path}/project")
    last = rf"features\.{len(blocks) + 1}\."
    return (*rules, *torch_conv_then_norm(f"{last}0", f"{last}1", "last_conv"), _HEAD)


def _mnasnet_rule(place: int, name: str, layout: Mapping[str, Leaf]) -> Rule:
    """Returns the rule of one layer of all inverted bottlenecks."""
    return Rule(
        rf"layers\.([89]|1[0-3])\.(\d)\.layers\.{place}",
        lambda stage, block: f"stage{stage - 6}_block{block + 1}/{name}",
        layout,
    )


MNASNET = (
    *torch_conv_then_norm(r"layers\.0", r"layers\.1", "stem"),
    *torch_conv_then_norm(r"layers\.3", r"layers\.4", "stage1_block1/depthwise"),
    *torch_conv_then_norm(r"layers\.6", r"layers\.7", "stage1_block1/project"),
    _mnasnet_rule(0, "expand/conv", TORCH_CONV),
    _mnasnet_rule(1, "expand/norm", TORCH_NORM),
    _mnasnet_rule(3, "depthwise/conv", TORCH_CONV),
    _mnasnet_rule(4, "depthwise/norm", TORCH_NORM),
    _mnasnet_rule(6, "project/conv", TORCH_CONV),
    _mnasnet_rule(7, "project/norm", TORCH_NORM),
    *torch_conv_then_norm(r"layers\.14", r"layers\.15", "last_conv"),
)


def timm(model: MobileNetV2) -> tuple[Rule, ...]:
    """Returns the rules."""
    return inverted_bottlenecks([stage.expansion != 1 for stage in model.stages])


KEY_MAPS: KeyMaps = {
    MobileNetV2: {
        "torchvision": lambda model: (*_mobilenet_v2(model), *MNASNET),
        "timm": timm,
    }
}
