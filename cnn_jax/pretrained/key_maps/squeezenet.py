"""SqueezeNets, as torchvision names them."""

from cnn_jax.models.squeezenet import SqueezeNet
from cnn_jax.pretrained.rules import TORCH_CONV, KeyMaps, Rule


def rules(model: SqueezeNet) -> tuple[Rule, ...]:
    """Returns the rules; torchvision numbers stem, pools and blocks in one row."""
    blocks = {}
    number = 2  # behind the stem's convolution and activation
    for stage, features in enumerate(model.stages, start=1):
        for block in range(1, len(features) + 1):
            blocks[number + block] = f"stage{stage}_block{block}"
        number += len(features) + 1
    return (
        Rule(r"features\.0", "stem/conv", TORCH_CONV),
        Rule(
            r"features\.(\d+)\.(squeeze|expand1x1|expand3x3)",
            lambda number, part: f"{blocks.get(number)}/{part}/conv",
            TORCH_CONV,
        ),
        Rule(r"classifier\.1", "head", TORCH_CONV),
    )


KEY_MAPS: KeyMaps = {SqueezeNet: {"torchvision": rules}}
