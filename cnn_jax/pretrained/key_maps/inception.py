"""Inception v3, as torchvision and timm name its layers."""

from cnn_jax.models.inception import InceptionV3
from cnn_jax.pretrained.rules import (
    IGNORED,
    TORCH_DENSE,
    KeyMaps,
    Rule,
    torch_conv_and_norm,
)

# torchvision calls branches by their filters.
_BRANCHES = {"1x1": 1, "3x3": 2, "5x5": 2, "7x7": 2, "3x3dbl": 3, "7x7dbl": 3}
_BRANCHES_OF_REDUCTIONS = {"3x3": 1, "3x3dbl": 2, "7x7x3": 2}
_STEM = {"1a_3x3": 1, "2a_3x3": 2, "2b_3x3": 3, "3b_1x1": 4, "4a_3x3": 5}


def _branch(grid: int, block: str, branch: str, layer: int | str, beside: str) -> str:
    """`Mixed_7b.branch3x3_2a`; a branch of one convolution does not count it."""
    # The first `a` is the stem's.
    index = "abcde".index(block) + (0 if grid == 5 else 1)
    is_reduction = grid > 5 and block == "a"
    numbers = _BRANCHES_OF_REDUCTIONS if is_reduction else _BRANCHES
    number = 4 if branch == "_pool" else numbers.get(branch)
    return f"stage{grid - 4}_block{index}/branch{number}_conv{layer or 1}{beside}"


TRUNK = (
    *torch_conv_and_norm(
        f"Conv2d_({'|'.join(_STEM)})", lambda name: f"stem_conv{_STEM[name]}"
    ),
    *torch_conv_and_norm(
        r"Mixed_([567])([a-e])\.branch([^_]+|_pool)(?:_(\d)([ab]?))?", _branch
    ),
    Rule("fc", "head", TORCH_DENSE),
)
AUXILIARY = (
    *torch_conv_and_norm(r"AuxLogits\.conv(\d)", lambda index: f"aux1/conv{index + 1}"),
    Rule(r"AuxLogits\.fc", "aux1/head", TORCH_DENSE),
)
WITHOUT_AUXILIARY = (Rule(r"AuxLogits\..*", "", IGNORED),)


def rules(model: InceptionV3) -> tuple[Rule, ...]:
    """Returns the rules."""
    return TRUNK + (AUXILIARY if model.aux_heads else WITHOUT_AUXILIARY)


KEY_MAPS: KeyMaps = {InceptionV3: {"torchvision": rules, "timm": rules}}
