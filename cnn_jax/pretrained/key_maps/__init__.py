"""The key maps: one file for each file in `models/`, and the table of all."""

from cnn_jax.pretrained.key_maps import convnext, densenet, resnet
from cnn_jax.pretrained.rules import KeyMap

KEY_MAPS: dict[type, dict[str, KeyMap]] = {
    module: maps
    for file in (convnext, densenet, resnet)
    for module, maps in file.KEY_MAPS.items()
}
"""Model class -> source -> key map."""
