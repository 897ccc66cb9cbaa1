"""ConvNeXts, as torchvision names them."""

import functools

import numpy as np

from cnn_jax.models.convnext import ConvNeXt
from cnn_jax.pretrained.rules import TORCH_CONV, TORCH_DENSE, TORCH_NORM, Leaf, Rule

_LAYER_SCALE = {
    "layer_scale": Leaf("params", "scale", functools.partial(np.squeeze, axis=(1, 2)))
}


# `features` holds the stem at 0, then by turns a stage and the way down to the next.
def _block(layer: str):
    return lambda place, index: f"stage{(place + 1) // 2}_block{index + 1}/{layer}"


def _downsample(layer: str):
    return lambda place: f"stage{place // 2 + 1}_downsample/{layer}"


_STAGE = r"features\.([1357])\.(\d+)"

TORCHVISION = (
    Rule(r"features\.0\.0", "stem/conv", TORCH_CONV),
    Rule(r"features\.0\.1", "stem/norm", TORCH_NORM),
    Rule(_STAGE, _block("layer_scale"), _LAYER_SCALE),
    Rule(rf"{_STAGE}\.block\.0", _block("depthwise"), TORCH_CONV),
    Rule(rf"{_STAGE}\.block\.2", _block("norm"), TORCH_NORM),
    Rule(rf"{_STAGE}\.block\.3", _block("expand"), TORCH_DENSE),
    Rule(rf"{_STAGE}\.block\.5", _block("project"), TORCH_DENSE),
    Rule(r"features\.([246])\.0", _downsample("norm"), TORCH_NORM),
    Rule(r"features\.([246])\.1", _downsample("conv"), TORCH_CONV),
    Rule(r"classifier\.0", "norm", TORCH_NORM),
    Rule(r"classifier\.2", "head", TORCH_DENSE),
)

KEY_MAPS = {ConvNeXt: {"torchvision": lambda model: TORCHVISION}}
