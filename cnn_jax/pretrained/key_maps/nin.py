"""Network in Network, with the layers' names in the authors' release for Caffe."""

from cnn_jax.models.nin import NiN
from cnn_jax.pretrained.rules import TORCH_CONV, KeyMaps, Rule


def rules(model: NiN) -> tuple[Rule, ...]:
    """Returns the rules; the 1x1 convolutions, "cccp", are numbered in one row."""
    num_stages = len(model.stages)
    return (
        # The release marks the layers of the last stage by its width.
        Rule(
            r"conv(\d)(?:-\d+)?",
            lambda stage: f"stage{stage}_block1/conv1/conv",
            TORCH_CONV,
        ),
        Rule(rf"cccp{2 * num_stages}(?:-\d+)?", "head", TORCH_CONV),
        Rule(
            r"cccp(\d)(?:-\d+)?",
            lambda number: (
                f"stage{(number + 1) // 2}_block1/conv{2 + (number + 1) % 2}/conv"
            ),
            TORCH_CONV,
        ),
    )


KEY_MAPS: KeyMaps = {NiN: {"torchvision": rules}}
