"""EfficientNet-Lite (2020).

EfficientNet's gates and its smooth activation are slow or lossy in the integer
arithmetic of phones and edge accelerators. So the channel gates go, and activations are
cut off at 6, which keeps the range that integers have to cover small. Stem, head, and
the number of blocks in the first and the last stage stay as they are in the smallest
network, so that the larger ones stay fast too.

It showed that an architecture found by search can be fitted to the hardware afterwards,
at one or two points of accuracy, and became a common image classifier of mobile
applications.

    model                parameters      MACs/M   top-1/%
    efficientnet_lite0    4,652,008       385.2     75.10
    efficientnet_lite1    5,416,680       600.2     76.70
    efficientnet_lite2    6,092,072       859.7     77.60
    efficientnet_lite3    8,197,096     1,383.3     79.80
    efficientnet_lite4   13,006,568     2,553.0     81.50

Top-1 is that of TensorFlow's checkpoints, which the weights in PyTorch packages and in
timm were converted from. They were trained on images `(x - 127) / 128` for x in [0,
255], which the packages' weights get. `model_info` follows timm, whose evaluation takes
mean and deviation 0.5, and 300 and 380 pixels for the last two. Padding is TensorFlow's
"SAME", which puts an odd pixel at the end. Batch normalisation has epsilon 1e-3 and,
like PyTorch's, keeps 0.9 of the old statistics and tracks the unbiased variance.
Filters start from He's normal distribution. Any image of at least 32x32 is accepted.
"""

from __future__ import annotations

import functools
from typing import Any

from cnn_jax import kernels as K
from cnn_jax.layers import BatchNorm
from cnn_jax.models.efficientnet import EfficientNet, scaled_stages
from cnn_jax.models.registry import Family, Variant

_NORM = functools.partial(BatchNorm, epsilon=1e-3, unbiased_running_var=True)


_AS_TRAINED = {
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    # TensorFlow's code keeps size / (size + 32), which is 0.875 for Lite0 alone; the
    # published code beside these weights keeps 0.875 for all.
    "crop_fraction": 0.875,
    "interpolation": "bicubic",
}
"""The preparation of images for the weights in PyTorch packages."""


def _fields(width: float, depth: float, dropout_rate: float) -> dict[str, Any]:
    """Returns the fields of Lite0 with so many times its channels and its blocks."""
    return {
        "stages": scaled_stages(width, depth, scale_ends=False),
        "stem_features": 32,
        "stem_strides": 2,
        "head_features": 1280,
        "squeeze_ratio": 0.0,
        "dropout_rate": dropout_rate,
        "norm": _NORM,
        "activation": K.relu6,
        "padding": "SAME",
    }


FAMILIES = (
    Family(
        name="efficientnet_lite",
        module=EfficientNet,
        paper="Liu, Higher Accuracy on Vision Models with EfficientNet-Lite",
        year=2020,
        url=(
            "https://blog.tensorflow.org/2020/03/"
            "higher-accuracy-on-vision-models-with-efficientnet-lite.html"
        ),
        top1_source="ImageNet; TensorFlow's checkpoints, in 32 bits",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        preprocessing={"interpolation": "bicubic"},
        preprocessing_by_source={"efficientnet_pytorch": _AS_TRAINED},
        variants={
            "efficientnet_lite0": Variant(
                parameters=4_652_008,
                macs=385_187_552,
                fields=_fields(1.0, 1.0, dropout_rate=0.2),
                top1=75.1,
            ),
            "efficientnet_lite1": Variant(
                parameters=5_416_680,
                macs=600_185_232,
                input_shape=(240, 240, 3),
                fields=_fields(1.0, 1.1, dropout_rate=0.2),
                top1=76.7,
                preprocessing={"crop_fraction": 0.882},
            ),
            "efficientnet_lite2": Variant(
                parameters=6_092_072,
                macs=859_736_272,
                input_shape=(260, 260, 3),
                fields=_fields(1.1, 1.2, dropout_rate=0.3),
                top1=77.6,
                preprocessing={"crop_fraction": 0.89},
            ),
            "efficientnet_lite3": Variant(
                parameters=8_197_096,
                macs=1_383_321_872,
                input_shape=(280, 280, 3),
                fields=_fields(1.2, 1.4, dropout_rate=0.3),
                top1=79.8,
                preprocessing={
                    "size": 300,
                    "crop_fraction": 0.904,
                    "interpolation": "bilinear",
                },
                preprocessing_by_source={"efficientnet_pytorch": {"size": 280}},
            ),
            "efficientnet_lite4": Variant(
                parameters=13_006_568,
                macs=2_553_034_336,
                input_shape=(300, 300, 3),
                fields=_fields(1.4, 1.8, dropout_rate=0.3),
                top1=81.5,
                preprocessing={
                    "size": 380,
                    "crop_fraction": 0.92,
                    "interpolation": "bilinear",
                },
                preprocessing_by_source={"efficientnet_pytorch": {"size": 300}},
            ),
        },
    ),
)
