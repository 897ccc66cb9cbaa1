"""VGGs, as torchvision and timm name them."""

from cnn_jax.models.vgg import VGG
from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_CONV_AS_DENSE,
    TORCH_DENSE,
    TORCH_FULL_CONV_AS_DENSE,
    TORCH_NORM,
    KeyMaps,
    Rule,
    flattened,
)


def _convs(model: VGG) -> list[Rule]:
    """Returns the convolutions' rules; pools are numbered in the same row."""
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
    return convs


def torchvision(model: VGG) -> tuple[Rule, ...]:
    """Returns the rules; the classifier's layers are numbered too."""
    first = flattened(model.pooled_size, model.pooled_size)
    num_hidden = len(model.hidden_features)
    return (
        *_convs(model),
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


def timm(model: VGG) -> tuple[Rule, ...]:
    """Returns the rules; the hidden layers are convolutions."""
    return (
        *_convs(model),
        Rule(r"pre_logits\.fc1", "classifier_dense1", TORCH_FULL_CONV_AS_DENSE),
        Rule(r"pre_logits\.fc2", "classifier_dense2", TORCH_CONV_AS_DENSE),
        Rule(r"head\.fc", "head", TORCH_DENSE),
    )


KEY_MAPS: KeyMaps = {VGG: {"torchvision": torchvision, "timm": timm}}
