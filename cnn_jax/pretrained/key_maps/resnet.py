"""ResNets, wide and ResNeXt ones too, as torchvision names them; SE-ResNets as timm."""

from cnn_jax.models.resnet import ResNet
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_CONV_AS_DENSE,
    TORCH_DENSE,
    TORCH_NORM,
    KeyMaps,
    Rule,
)


def _block(stage: int, block: int) -> str:
    return f"stage{stage}_block{block + 1}"


IMAGENET = (
    Rule("conv1", "stem/conv", TORCH_CONV),
    Rule("bn1", "stem/norm", TORCH_NORM),
    Rule(
        r"layer(\d)\.(\d+)\.conv(\d)",
        lambda s, b, c: f"{_block(s, b)}/conv{c}/conv",
        TORCH_CONV,
    ),
    Rule(
        r"layer(\d)\.(\d+)\.bn(\d)",
        lambda s, b, c: f"{_block(s, b)}/conv{c}/norm",
        TORCH_NORM,
    ),
    Rule(
        r"layer(\d)\.(\d+)\.downsample\.0",
        lambda s, b: f"{_block(s, b)}/shortcut/conv",
        TORCH_CONV,
    ),
    Rule(
        r"layer(\d)\.(\d+)\.downsample\.1",
        lambda s, b: f"{_block(s, b)}/shortcut/norm",
        TORCH_NORM,
    ),
    Rule("fc", "head", TORCH_DENSE),
)

SQUEEZE_EXCITE = (
    Rule(
        r"layer(\d)\.(\d+)\.se\.fc1",
        lambda s, b: f"{_block(s, b)}/squeeze_excite/squeeze",
        TORCH_CONV_AS_DENSE,
    ),
    Rule(
        r"layer(\d)\.(\d+)\.se\.fc2",
        lambda s, b: f"{_block(s, b)}/squeeze_excite/expand",
        TORCH_CONV_AS_DENSE,
    ),
)

# The public PyTorch weights of the CIFAR networks differ in the last layer's name.
CIFAR = (*IMAGENET, Rule("linear", "head", TORCH_DENSE))

KEY_MAPS: KeyMaps = {
    ResNet: {
        "torchvision": lambda model: CIFAR if model.small_images else IMAGENET,
        # The same names, and those of the gates.
        "timm": lambda model: (*IMAGENET, *SQUEEZE_EXCITE),
    }
}
