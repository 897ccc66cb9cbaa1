"""MobileNet v3, as torchvision names it."""

from cnn_jax.models.mobilenet_v3 import MobileNetV3
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_CONV_AS_DENSE,
    TORCH_DENSE,
    TORCH_NORM,
    KeyMaps,
    Rule,
)


def torchvision(model: MobileNetV3) -> tuple[Rule, ...]:
    """The blocks are numbered through; a block's parts too, which not all have."""
    blocks = [
        (f"stage{number}_block{index}", block)
        for number, stage in enumerate(model.stages, start=1)
        for index, block in enumerate(stage, start=1)
    ]
    parts: dict[tuple[int, int], str] = {}
    channels = 16
    for position, (name, block) in enumerate(blocks, start=1):
        names = ["expand"] * (block.hidden_features != channels)
        names += ["depthwise", *["squeeze_excite"] * block.gated, "project"]
        parts |= {
            (position, part): f"{name}/{inner}" for part, inner in enumerate(names)
        }
        channels = block.features
    last = len(blocks) + 1
    inner = r"features\.(\d+)\.block\.(\d)"

    def path(block: int, part: int, leaf: str) -> str:
        return f"{parts.get((block, part), f'block{block}/part{part}')}/{leaf}"

    return (
        Rule(r"features\.0\.0", "stem/conv", TORCH_CONV),
        Rule(r"features\.0\.1", "stem/norm", TORCH_NORM),
        Rule(rf"features\.{last}\.0", "last_conv/conv", TORCH_CONV),
        Rule(rf"features\.{last}\.1", "last_conv/norm", TORCH_NORM),
        Rule(rf"{inner}\.0", lambda b, p: path(b, p, "conv"), TORCH_CONV),
        Rule(rf"{inner}\.1", lambda b, p: path(b, p, "norm"), TORCH_NORM),
        Rule(rf"{inner}\.fc1", lambda b, p: path(b, p, "squeeze"), TORCH_CONV_AS_DENSE),
        Rule(rf"{inner}\.fc2", lambda b, p: path(b, p, "expand"), TORCH_CONV_AS_DENSE),
        Rule(r"classifier\.0", "hidden", TORCH_DENSE),
        Rule(r"classifier\.3", "head", TORCH_DENSE),
    )


KEY_MAPS: KeyMaps = {MobileNetV3: {"torchvision": torchvision}}
