"""DenseNets, as torchvision and timm name them."""

from cnn_jax.models.densenet import DenseNet
from cnn_jax.pretrained.rules import TORCH_CONV, TORCH_DENSE, TORCH_NORM, KeyMaps, Rule

# The released weights still have the names `norm.1` and `conv.1`, for which the
# library's own state dict has `norm1` and `conv1`.
_LAYER = r"features\.denseblock(\d)\.denselayer(\d+)"
_TRANSITION = r"features\.transition(\d)"

TORCHVISION = (
    Rule(r"features\.conv0", "stem/conv", TORCH_CONV),
    Rule(r"features\.norm0", "stem/norm", TORCH_NORM),
    Rule(
        rf"{_LAYER}\.conv\.?(\d)",
        lambda s, b, c: f"stage{s}_block{b}/conv{c}/conv",
        TORCH_CONV,
    ),
    Rule(
        rf"{_LAYER}\.norm\.?(\d)",
        lambda s, b, c: f"stage{s}_block{b}/conv{c}/norm",
        TORCH_NORM,
    ),
    Rule(
        rf"{_TRANSITION}\.conv", lambda s: f"stage{s + 1}_transition/conv", TORCH_CONV
    ),
    Rule(
        rf"{_TRANSITION}\.norm", lambda s: f"stage{s + 1}_transition/norm", TORCH_NORM
    ),
    Rule(r"features\.norm5", "norm", TORCH_NORM),
    Rule("classifier", "head", TORCH_DENSE),
)

KEY_MAPS: KeyMaps = {
    DenseNet: dict.fromkeys(("torchvision", "timm"), lambda model: TORCHVISION),
}
