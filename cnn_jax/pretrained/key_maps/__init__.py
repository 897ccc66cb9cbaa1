"""The key maps: one file for each file in `models/`, and the table of all."""

from cnn_jax.pretrained.key_maps import efficientnet, mobilenet_v3, resnet
from cnn_jax.pretrained.rules import KeyMap

_FILES = (resnet, mobilenet_v3, efficientnet)

KEY_MAPS: dict[type, dict[str, KeyMap]] = {
    module: maps for file in _FILES for module, maps in file.KEY_MAPS.items()
}
"""Model class -> source -> key map."""
