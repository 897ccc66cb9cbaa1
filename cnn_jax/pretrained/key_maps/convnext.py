"""ConvNeXt, as torchvision and timm name it."""

from collections.abc import Mapping

from cnn_jax.models.convnext import ConvNeXt
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_DENSE,
    TORCH_NORM,
    KeyMaps,
    Leaf,
    Rule,
)

_LAYER_SCALE = {
    "layer_scale": Leaf("params", "layer_scale", lambda array: array.reshape(-1))
}


def _block(number: int, block: int) -> str:
    # Stages have odd numbers; even ones are what stands between them.
    return f"stage{(number + 1) // 2}_block{block + 1}"


TORCHVISION = (
    Rule(r"features\.0\.0", "stem_conv", TORCH_CONV),
    Rule(r"features\.0\.1", "stem_norm", TORCH_NORM),
    Rule(r"features\.([246])\.0", lambda n: f"stage{n // 2 + 1}_norm", TORCH_NORM),
    Rule(
        r"features\.([246])\.1", lambda n: f"stage{n // 2 + 1}_downsample", TORCH_CONV
    ),
    Rule(r"features\.([1357])\.(\d+)", _block, _LAYER_SCALE),
    Rule(
        r"features\.([1357])\.(\d+)\.block\.0",
        lambda n, b: f"{_block(n, b)}/depthwise",
        TORCH_CONV,
    ),
    Rule(
        r"features\.([1357])\.(\d+)\.block\.2",
        lambda n, b: f"{_block(n, b)}/norm",
        TORCH_NORM,
    ),
    Rule(
        r"features\.([1357])\.(\d+)\.block\.3",
        lambda n, b: f"{_block(n, b)}/expand",
        TORCH_DENSE,
    ),
    Rule(
        r"features\.([1357])\.(\d+)\.block\.5",
        lambda n, b: f"{_block(n, b)}/project",
        TORCH_DENSE,
    ),
    Rule(r"classifier\.0", "head_norm", TORCH_NORM),
    Rule(r"classifier\.2", "head", TORCH_DENSE),
)


def _timm_block(layer: str, path: str, layout: Mapping[str, Leaf]) -> Rule:
    return Rule(
        rf"stages\.(\d)\.blocks\.(\d+)\.{layer}",
        lambda stage, block: f"stage{stage + 1}_block{block + 1}/{path}",
        layout,
    )


TIMM = (
    Rule(r"stem\.0", "stem_conv", TORCH_CONV),
    Rule(r"stem\.1", "stem_norm", TORCH_NORM),
    Rule(r"stages\.(\d)\.downsample\.0", lambda n: f"stage{n + 1}_norm", TORCH_NORM),
    Rule(
        r"stages\.(\d)\.downsample\.1",
        lambda n: f"stage{n + 1}_downsample",
        TORCH_CONV,
    ),
    Rule(
        r"stages\.(\d)\.blocks\.(\d+)",
        lambda stage, block: f"stage{stage + 1}_block{block + 1}",
        {"gamma": Leaf("params", "layer_scale")},
    ),
    _timm_block("conv_dw", "depthwise", TORCH_CONV),
    _timm_block("norm", "norm", TORCH_NORM),
    _timm_block(r"mlp\.fc1", "expand", TORCH_DENSE),
    _timm_block(r"mlp\.fc2", "project", TORCH_DENSE),
    Rule(r"head\.norm", "head_norm", TORCH_NORM),
    Rule(r"head\.fc", "head", TORCH_DENSE),
)

KEY_MAPS: KeyMaps = {
    ConvNeXt: {
        "torchvision": lambda model: TORCHVISION,
        "timm": lambda model: TIMM,
    }
}
