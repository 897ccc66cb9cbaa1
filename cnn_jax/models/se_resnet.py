"""SE-ResNet (Hu, Shen, Albanie, Sun and Wu 2017).

A convolution mixes channels the same way wherever it stands and whatever the image. Let
each block see its whole output: average every channel over the image ("squeeze"), and
from these averages compute by two small dense layers a factor between 0 and 1 for each
channel ("excite"). Channels that matter for this image are kept, others fade, for less
than one percent more multiply-adds.

It won the last ImageNet challenge, in 2017. The gate went into nearly every efficient
network since, MobileNet v3 and EfficientNet among them, and began the fashion of
attention in convolutional networks.

It is ResNet with a gate at each branch's end, whose hidden layer has a sixteenth of the
block's channels. Top-1 is of the models that the authors released, whose strides are in
the bottlenecks' first convolutions; the paper's own, trained on larger batches, are up
to one percent lower.

    model         parameters     MACs/M   top-1/%
    seresnet50    28,088,024    4,091.7     77.63
    seresnet101   49,326,872    7,806.1     78.25
    seresnet152   66,821,848   11,520.2     78.66

Conventions are those of `resnet`. Any image of at least 32x32 is accepted.
"""

import functools

from cnn_jax.layers import Bottleneck, SqueezeExcite
from cnn_jax.models.registry import Family, Variant
from cnn_jax.models.resnet import ResNet

_GATED = {
    "stage_features": (256, 512, 1024, 2048),
    "block": Bottleneck,
    "squeeze_excite": functools.partial(SqueezeExcite, squeeze_ratio=1 / 16),
}

FAMILIES = (
    Family(
        name="se_resnet",
        module=ResNet,
        paper="Hu et al., Squeeze-and-Excitation Networks",
        year=2017,
        url="https://arxiv.org/abs/1709.01507",
        top1_source="ImageNet; the authors' models, github.com/hujie-frank/SENet",
        preprocessing={"interpolation": "bicubic"},
        variants={
            "seresnet50": Variant(
                parameters=28_088_024,
                macs=4_091_699_200,
                fields={"stage_sizes": (3, 4, 6, 3), **_GATED},
                top1=77.63,
                preprocessing={"crop_fraction": 0.95},
            ),
            "seresnet101": Variant(
                parameters=49_326_872,
                macs=7_806_148_608,
                fields={"stage_sizes": (3, 4, 23, 3), **_GATED},
                top1=78.25,
            ),
            "seresnet152": Variant(
                parameters=66_821_848,
                macs=11_520_204_800,
                fields={"stage_sizes": (3, 8, 36, 3), **_GATED},
                top1=78.66,
            ),
        },
    ),
)
