"""GoogLeNet, as torchvision names its layers."""

from cnn_jax.models.googlenet import GoogLeNet
from cnn_jax.pretrained.rules import (
    IGNORED,
    TORCH_DENSE,
    KeyMaps,
    Rule,
    flattened,
    torch_conv_and_norm,
)


def _branch(stage: int, block: str, branch: int, layer: int | str) -> str:
    """`inception3a.branch2.1`; a branch of one convolution does not count it.

    The pooling is number 0 of the fourth branch.
    """
    index = layer + 1 if isinstance(layer, int) and branch != 4 else 1
    number = "abcde".index(block) + 1
    return f"stage{stage - 2}_block{number}/branch{branch}_conv{index}"


TRUNK = (
    *torch_conv_and_norm(r"conv(\d)", "stem_conv{}".format),
    *torch_conv_and_norm(r"inception(\d)([a-e])\.branch(\d)(?:\.(\d))?", _branch),
    Rule("fc", "head", TORCH_DENSE),
)
AUXILIARY = (
    *torch_conv_and_norm(r"aux(\d)\.conv", "aux{}/conv".format),
    Rule(r"aux(\d)\.fc1", "aux{}/dense".format, flattened(4, 4)),
    Rule(r"aux(\d)\.fc2", "aux{}/head".format, TORCH_DENSE),
)
WITHOUT_AUXILIARY = (Rule(r"aux\d\..*", "", IGNORED),)

KEY_MAPS: KeyMaps = {
    GoogLeNet: {
        "torchvision": lambda model: (
            TRUNK + (AUXILIARY if model.aux_heads else WITHOUT_AUXILIARY)
        )
    }
}
