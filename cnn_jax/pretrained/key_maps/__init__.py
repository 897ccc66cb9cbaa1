"""The key maps: one file for each file in `models/`, and the table of all."""

from cnn_jax.pretrained.key_maps import alexnet, lenet, nin, resnet, squeezenet, vgg
from cnn_jax.pretrained.rules import KeyMap

KEY_MAPS: dict[type, dict[str, KeyMap]] = {
    module: maps
    for file in (lenet, alexnet, nin, vgg, resnet, squeezenet)
    for module, maps in file.KEY_MAPS.items()
}
"""Model class -> source -> key map."""
