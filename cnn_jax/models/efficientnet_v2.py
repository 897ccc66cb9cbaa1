"""EfficientNetV2 (Tan and Le 2021).

Its predecessor is small but trains slowly: depthwise convolutions keep accelerators
idle, and large images fill their memory. So training time joins the objective of the
search, which then takes full convolutions where channels are few (the fused inverted
bottleneck), smaller expansions and smaller filters, and adds depth late. Images grow
during training, and regularisation with them.

It trained up to eleven times faster than other networks of its accuracy, and made
throughput on real hardware, rather than multiply-adds, the measure.

    model               parameters      MACs/M   top-1/%
    efficientnet_v2_s    21,458,488     8,365.6     84.23
    efficientnet_v2_m    54,139,356    24,582.5     85.11
    efficientnet_v2_l   118,515,272    56,079.7     85.81

Top-1 is torchvision's, of its weights IMAGENET1K_V1; those of L expect images scaled to
[-1, 1]. Padding is `(k - 1) / 2` on every side. Batch normalisation has epsilon 1e-3,
keeps 0.9 of the old statistics and tracks the unbiased variance, as PyTorch's. Filters
start from He's normal distribution. Any image of at least 32x32 is accepted.
"""

from __future__ import annotations

import functools

from cnn_jax.layers import BatchNorm
from cnn_jax.models.efficientnet import EfficientNet, Stage
from cnn_jax.models.registry import Family, PaperAndModule, Variant


def _fields(
    *stages: tuple[int, int, int, int], num_fused: int, dropout_rate: float
) -> dict[str, object]:
    """Returns the module's fields.

    Args:
      *stages: Channels, blocks, expansion and strides, stage by stage.
      num_fused: How many of the first stages are of fused blocks.
      dropout_rate: The probability of dropping a pooled feature.
    """
    return {
        "stages": tuple(
            Stage(features, num_blocks, expansion, 3, strides, fused=index < num_fused)
            for index, (features, num_blocks, expansion, strides) in enumerate(stages)
        ),
        "stem_features": stages[0][0],
        "stem_strides": 2,
        "head_features": 1280,
        "dropout_rate": dropout_rate,
        "norm": functools.partial(BatchNorm, epsilon=1e-3, unbiased_running_var=True),
    }


_PAPER: PaperAndModule = {
    "module": EfficientNet,
    "paper": "Tan and Le, EfficientNetV2: Smaller Models and Faster Training",
    "year": 2021,
    "url": "https://arxiv.org/abs/2104.00298",
}
_TOP1_SOURCE = "ImageNet; torchvision's weights IMAGENET1K_V1"

FAMILIES = (
    Family(
        **_PAPER,
        name="efficientnet_v2",
        top1_source=_TOP1_SOURCE,
        preprocessing={"crop_fraction": 1.0},
        variants={
            "efficientnet_v2_s": Variant(
                parameters=21_458_488,
                macs=8_365_617_152,
                input_shape=(384, 384, 3),
                fields=_fields(
                    (24, 2, 1, 1),
                    (48, 4, 4, 2),
                    (64, 4, 4, 2),
                    (128, 6, 4, 2),
                    (160, 9, 6, 1),
                    (256, 15, 6, 2),
                    num_fused=3,
                    dropout_rate=0.2,
                ),
                top1=84.228,
            ),
            "efficientnet_v2_m": Variant(
                parameters=54_139_356,
                macs=24_582_460_384,
                input_shape=(480, 480, 3),
                fields=_fields(
                    (24, 3, 1, 1),
                    (48, 5, 4, 2),
                    (80, 5, 4, 2),
                    (160, 7, 4, 2),
                    (176, 14, 6, 1),
                    (304, 18, 6, 2),
                    (512, 5, 6, 1),
                    num_fused=3,
                    dropout_rate=0.3,
                ),
                top1=85.112,
            ),
        },
    ),
    Family(
        **_PAPER,
        name="efficientnet_v2_large",
        top1_source=_TOP1_SOURCE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        preprocessing={"crop_fraction": 1.0, "interpolation": "bicubic"},
        variants={
            "efficientnet_v2_l": Variant(
                parameters=118_515_272,
                macs=56_079_699_008,
                input_shape=(480, 480, 3),
                fields=_fields(
                    (32, 4, 1, 1),
                    (64, 7, 4, 2),
                    (96, 7, 4, 2),
                    (192, 10, 4, 2),
                    (224, 19, 6, 1),
                    (384, 25, 6, 2),
                    (640, 7, 6, 1),
                    num_fused=3,
                    dropout_rate=0.4,
                ),
                top1=85.808,
            ),
        },
    ),
)
