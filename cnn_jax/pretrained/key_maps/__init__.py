"""The key maps: one file for each file in `models/`, and the table of all."""

from cnn_jax.pretrained.key_maps import googlenet, inception, resnet, xception
from cnn_jax.pretrained.rules import KeyMap

KEY_MAPS: dict[type, dict[str, KeyMap]] = {
    module: maps
    for file in (googlenet, inception, resnet, xception)
    for module, maps in file.KEY_MAPS.items()
}
"""Model class -> source -> key map."""
