"""The networks, by family, and the registry that makes them by name."""

from cnn_jax.models import (
    efficientnet,
    lenet,
    resnet,
    resnet_v2,
    resnext,
    se_resnet,
    vgg,
    wide_resnet,
)
from cnn_jax.models.registry import Family as Family
from cnn_jax.models.registry import ModelInfo as ModelInfo
from cnn_jax.models.registry import Variant as Variant
from cnn_jax.models.registry import create_model as create_model
from cnn_jax.models.registry import list_models as list_models
from cnn_jax.models.registry import model_info as model_info
from cnn_jax.models.registry import register as register

for _file in (
    lenet,
    vgg,
    resnet,
    resnet_v2,
    wide_resnet,
    resnext,
    se_resnet,
    efficientnet,
):
    for _family in _file.FAMILIES:
        register(_family)
