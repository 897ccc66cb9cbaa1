"""Pre-activation ResNets as timm names them, the wide one for CIFAR-10 too."""

from cnn_jax.models.resnet_v2 import ResNetV2
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_CONV_AS_DENSE,
    TORCH_NORM,
    KeyMaps,
    Rule,
)


def _layer(stage: int, block: int, layer: str) -> str:
    return f"stage{stage + 1}_block{block + 1}/{layer}"


RULES = (
    Rule(r"stem\.conv", "stem", TORCH_CONV),
    Rule(r"stages\.(\d)\.blocks\.(\d+)\.(conv\d)", _layer, TORCH_CONV),
    Rule(r"stages\.(\d)\.blocks\.(\d+)\.(norm\d)", _layer, TORCH_NORM),
    Rule(
        r"stages\.(\d)\.blocks\.(\d+)\.downsample\.conv",
        lambda s, b: _layer(s, b, "shortcut"),
        TORCH_CONV,
    ),
    Rule("norm", "norm", TORCH_NORM),
    Rule(r"head\.fc", "head", TORCH_CONV_AS_DENSE),
)

KEY_MAPS: KeyMaps = {ResNetV2: {"timm": lambda model: RULES}}
