"""MobileNets of the first version, as Keras names them."""

from cnn_jax.models.mobilenet_v1 import MobileNetV1
from cnn_jax.pretrained.rules import (
    KERAS_CONV,
    KERAS_CONV_AS_DENSE,
    KERAS_DEPTHWISE,
    KERAS_NORM,
    KeyMaps,
    Rule,
)


def rules(model: MobileNetV1) -> tuple[Rule, ...]:
    """Returns the rules; Keras numbers the blocks through all stages."""
    blocks = [
        f"stage{stage}_block{block}"
        for stage, num_blocks in enumerate(model.stage_sizes, start=1)
        for block in range(1, num_blocks + 1)
    ]
    return (
        Rule("conv1", "stem/conv", KERAS_CONV),
        Rule("conv1_bn", "stem/norm", KERAS_NORM),
        *(
            rule
            for number, block in enumerate(blocks, start=1)
            for rule in (
                Rule(f"conv_dw_{number}", f"{block}/depthwise/conv", KERAS_DEPTHWISE),
                Rule(f"conv_dw_{number}_bn", f"{block}/depthwise/norm", KERAS_NORM),
                Rule(f"conv_pw_{number}", f"{block}/pointwise/conv", KERAS_CONV),
                Rule(f"conv_pw_{number}_bn", f"{block}/pointwise/norm", KERAS_NORM),
            )
        ),
        Rule("conv_preds", "head", KERAS_CONV_AS_DENSE),
    )


KEY_MAPS: KeyMaps = {MobileNetV1: {"keras": rules}}
