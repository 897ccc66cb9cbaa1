"""VGGs, as torchvision names them."""

from cnn_jax.models.vgg import VGG
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_DENSE,
    TORCH_NORM,
    Rule,
    flattened,
)


def rules(model: VGG) -> tuple[Rule, ...]:
    """Returns the rules; torchvision numbers all layers, pools too, in two rows."""
    convs, number = [], 0
    for stage, features in enumerate(model.stages, start=1):
        for index in range(1, len(features) + 1):
            name = f"stage{stage}_conv{index}"
            convs.append(Rule(rf"features\.{number}", f"{name}/conv", TORCH_CONV))
            number += 1
            if model.norm is not None:
                convs.append(Rule(rf"features\.{number}", f"{name}/norm", TORCH_NORM))
                number += 1
            number += 1  # the activation
        number += 1  # the pool
    first = flattened(model.pooled_size, model.pooled_size)
    num_hidden = len(model.hidden_features)
    return (
        *convs,
        *(
            Rule(
                rf"classifier\.{3 * index}",
                f"classifier_dense{index + 1}",
                TORCH_DENSE if index else first,
            )
            for index in range(num_hidden)
        ),
        Rule(rf"classifier\.{3 * num_hidden}", "head", TORCH_DENSE),
    )


KEY_MAPS = {VGG: {"torchvision": rules}}
