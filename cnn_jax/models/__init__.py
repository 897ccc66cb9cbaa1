"""The networks, by family, and the registry that makes them by name."""

from cnn_jax.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    efficientnet_lite,
    efficientnet_v2,
    googlenet,
    inception,
    lenet,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    resnet,
    resnet_v2,
    resnext,
    se_resnet,
    shufflenet_v2,
    squeezenet,
    vgg,
    wide_resnet,
    xception,
    zfnet,
)
from cnn_jax.models.registry import Family as Family
from cnn_jax.models.registry import ModelInfo as ModelInfo
from cnn_jax.models.registry import Variant as Variant
from cnn_jax.models.registry import create_model as create_model
from cnn_jax.models.registry import list_models as list_models
from cnn_jax.models.registry import model_info as model_info
from cnn_jax.models.registry import register as register

# As history has them.
for _file in (
    lenet,
    alexnet,
    zfnet,
    nin,
    vgg,
    googlenet,
    inception,
    resnet,
    resnet_v2,
    squeezenet,
    wide_resnet,
    resnext,
    densenet,
    xception,
    mobilenet_v1,
    se_resnet,
    shufflenet_v2,
    mobilenet_v2,
    mnasnet,
    mobilenet_v3,
    efficientnet,
    efficientnet_lite,
    efficientnet_v2,
    convnext,
):
    for _family in _file.FAMILIES:
        register(_family)
