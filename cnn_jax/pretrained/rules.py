"""Rules that map another library's keys to paths here, as data.

A key such as `layer1.0.conv2.weight` is a layer's name and an array's. A rule's pattern
fits the layer's name and gives its path here; the rule's layout says what the layer's
arrays are called here and which transformation brings each into place.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """The destination of one array of a layer.

    Attributes:
      collection: `"params"` or `"batch_stats"`, or None for what is not needed here.
      name: The array's name there.
      transform: Brings it into the layout used here.
    """

    collection: str | None
    name: str = ""
    transform: Transform = lambda array: array


@dataclasses.dataclass(frozen=True)
class Rule:
    """The destination of the arrays of the layers that a pattern matches.

    Attributes:
      pattern: A regular expression for the whole of the layer's name there.
      path: The layer's path here, '/'-joined; or a function that returns it for the
        pattern's groups, of which digits arrive as integers.
      layout: The arrays' names there, and their places here.
    """

    pattern: str
    path: str | Callable[..., str]
    layout: Mapping[str, Leaf]

    def target_of(self, layer: str) -> str | None:
        """Returns the path of a layer, or None if the rule is not about it."""
        match = re.fullmatch(self.pattern, layer)
        if match is None:
            return None
        if isinstance(self.path, str):
            return self.path
        return self.path(
            *(int(group) if group.isdigit() else group for group in match.groups(""))
        )


Origin = Literal["torchvision", "timm", "keras", "efficientnet_pytorch", "cnn_jax"]
"""Whose names arrays have; `efficientnet_pytorch` is Melas-Kyriazi's package, whose
names its relatives share, such as `efficientnet_lite_pytorch`."""

KeyMap = Callable[[Any], Sequence[Rule]]
"""Returns the rules for one model, whose fields say how many blocks it has."""

KeyMaps = Mapping[type[nn.Module], Mapping[Origin, KeyMap]]
"""Model class -> source -> key map, which takes a model of that class."""


def _oihw_to_hwio(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0)


def _spatial_to_dense(array: np.ndarray) -> np.ndarray:
    return array.reshape(array.shape[:2]).T


def flattened(height: int, width: int) -> Mapping[str, Leaf]:
    """Returns the layout of a `Linear` of PyTorch after flattening `(c, h, w)`."""

    def transform(array: np.ndarray) -> np.ndarray:
        cube = array.reshape(array.shape[0], -1, height, width)
        return cube.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])

    return {"weight": Leaf("params", "kernel", transform), "bias": _TORCH_BIAS}


_TORCH_BIAS = Leaf("params", "bias")

TORCH_CONV = {"weight": Leaf("params", "kernel", _oihw_to_hwio), "bias": _TORCH_BIAS}
"""`torch.nn.Conv2d`, of any groups."""

TORCH_DENSE = {"weight": Leaf("params", "kernel", np.transpose), "bias": _TORCH_BIAS}
"""`torch.nn.Linear`."""

TORCH_CONV_AS_DENSE = {
    "weight": Leaf("params", "kernel", _spatial_to_dense),
    "bias": _TORCH_BIAS,
}
"""`torch.nn.Conv2d` of size 1 on pooled features."""

TORCH_FULL_CONV_AS_DENSE = {
    "weight": Leaf(
        "params",
        "kernel",
        lambda array: _oihw_to_hwio(array).reshape(-1, array.shape[0]),
    ),
    "bias": _TORCH_BIAS,
}
"""`torch.nn.Conv2d` of the features' own size, where they are flattened here."""

TORCH_NORM = {
    "weight": Leaf("params", "scale"),
    "bias": _TORCH_BIAS,
    "running_mean": Leaf("batch_stats", "mean"),
    "running_var": Leaf("batch_stats", "var"),
    "num_batches_tracked": Leaf(None),
}
"""`torch.nn.BatchNorm2d`; without statistics also `LayerNorm`."""


def torch_conv_and_norm(pattern: str, path: Callable[..., str]) -> tuple[Rule, Rule]:
    """Returns the rules of torchvision's convolutions `conv` with norms `bn` behind.

    Args:
      pattern: Of their common layer there.
      path: Returns its path here for the pattern's groups.
    """
    return (
        Rule(pattern + r"\.conv", lambda *found: f"{path(*found)}/conv", TORCH_CONV),
        Rule(pattern + r"\.bn", lambda *found: f"{path(*found)}/norm", TORCH_NORM),
    )


def torch_conv_then_norm(conv: str, norm: str, path: str) -> tuple[Rule, Rule]:
    """Returns the rules of a convolution and of the normalisation after it.

    Args:
      conv: A pattern of the convolution's name there.
      norm: One of the normalisation's.
      path: Their common layer's path here.
    """
    return (
        Rule(conv, f"{path}/conv", TORCH_CONV),
        Rule(norm, f"{path}/norm", TORCH_NORM),
    )


IGNORED = {name: Leaf(None) for name in TORCH_NORM}
"""Arrays that a file has and the model does not, by PyTorch's names."""

KERAS_CONV = {"kernel": Leaf("params", "kernel"), "bias": Leaf("params", "bias")}
"""`keras.layers.Conv2D`."""

KERAS_DENSE = KERAS_CONV
"""`keras.layers.Dense`."""

_KERAS_DEPTHWISE = Leaf("params", "kernel", lambda array: array.transpose(0, 1, 3, 2))

KERAS_DEPTHWISE = {"kernel": _KERAS_DEPTHWISE, "bias": Leaf("params", "bias")}
"""`keras.layers.DepthwiseConv2D` of multiplier 1."""

KERAS_SEPARABLE_DEPTHWISE = {"depthwise_kernel": _KERAS_DEPTHWISE}
"""The first half of `keras.layers.SeparableConv2D` of multiplier 1."""

KERAS_SEPARABLE_POINTWISE = {
    "pointwise_kernel": Leaf("params", "kernel"),
    "bias": Leaf("params", "bias"),
}
"""Its second half."""

KERAS_CONV_AS_DENSE = {
    "kernel": Leaf("params", "kernel", lambda array: array.reshape(array.shape[-2:])),
    "bias": Leaf("params", "bias"),
}
"""`keras.layers.Conv2D` of size 1 on pooled features."""

KERAS_NORM = {
    "gamma": Leaf("params", "scale"),
    "beta": Leaf("params", "bias"),
    "moving_mean": Leaf("batch_stats", "mean"),
    "moving_variance": Leaf("batch_stats", "var"),
}
"""`keras.layers.BatchNormalization`."""
