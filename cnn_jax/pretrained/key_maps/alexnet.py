"""AlexNet, as torchvision names it, and ZFNet likewise."""

from cnn_jax.models.alexnet import AlexNet
from cnn_jax.pretrained.rules import TORCH_CONV, TORCH_DENSE, KeyMaps, Rule, flattened


def rules(model: AlexNet) -> tuple[Rule, ...]:
    """Returns the rules; torchvision numbers all layers, pools too, in two rows."""
    convs, number = [], 0
    for stage in range(1, len(model.stages) + 1):
        for index in range(1, len(model.stages[stage - 1].features) + 1):
            path = f"stage{stage}_conv{index}/conv"
            convs.append(Rule(rf"features\.{number}", path, TORCH_CONV))
            number += 2  # the convolution and the activation
        number += 1  # the pool
        number += model.response_norm is not None
    first = flattened(model.pooled_size, model.pooled_size)
    num_hidden = len(model.hidden_features)
    return (
        *convs,
        *(
            Rule(
                rf"classifier\.{3 * index + model.drop_inputs}",
                f"classifier_dense{index + 1}",
                TORCH_DENSE if index else first,
            )
            for index in range(num_hidden)
        ),
        Rule(rf"classifier\.{3 * num_hidden}", "head", TORCH_DENSE),
    )


KEY_MAPS: KeyMaps = {AlexNet: {"torchvision": rules}}
