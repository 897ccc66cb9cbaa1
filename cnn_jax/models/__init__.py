"""The networks, by family, and the registry that makes them by name."""

from cnn_jax.models import convnext, densenet, efficientnet, lenet, resnet, vgg
from cnn_jax.models.registry import Family as Family
from cnn_jax.models.registry import ModelInfo as ModelInfo
from cnn_jax.models.registry import Variant as Variant
from cnn_jax.models.registry import create_model as create_model
from cnn_jax.models.registry import list_models as list_models
from cnn_jax.models.registry import model_info as model_info
from cnn_jax.models.registry import register as register

for _file in (lenet, vgg, resnet, densenet, efficientnet, convnext):
    for _family in _file.FAMILIES:
        register(_family)
