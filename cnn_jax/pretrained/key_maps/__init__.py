"""The key maps: a file for each file in `models/` with a module, and all of them."""

from cnn_jax.pretrained.key_maps import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception,
    lenet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    resnet,
    resnet_v2,
    shufflenet_v2,
    squeezenet,
    vgg,
    xception,
)
from cnn_jax.pretrained.rules import KeyMaps

_FILES = (
    lenet,
    alexnet,
    nin,
    vgg,
    googlenet,
    inception,
    resnet,
    resnet_v2,
    squeezenet,
    densenet,
    xception,
    mobilenet_v1,
    shufflenet_v2,
    mobilenet_v2,
    mobilenet_v3,
    efficientnet,
    convnext,
)

KEY_MAPS: KeyMaps = {
    module: maps for file in _FILES for module, maps in file.KEY_MAPS.items()
}
"""Model class -> source -> key map."""
