"""LeNet-5, with the paper's names of its layers."""

from cnn_jax.models.lenet import LeNet5
from cnn_jax.pretrained.rules import TORCH_CONV, TORCH_DENSE, KeyMaps, Rule

RULES = (
    Rule(r"(c[135])", lambda layer: layer, TORCH_CONV),
    Rule("f6", "f6", TORCH_DENSE),
    Rule("output", "head", TORCH_DENSE),
)

KEY_MAPS: KeyMaps = {LeNet5: {"torchvision": lambda model: RULES}}
