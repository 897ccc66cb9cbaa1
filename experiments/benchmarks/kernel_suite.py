"""The cases of the kernel benchmark: layers of real networks, as data.

A row names the network that a layer comes from and the group in which its ratio is
averaged; the case itself is of the kind that the proofs use. Batches are sized so that
one call of JAX's own form takes milliseconds to seconds on a CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cnn_jax import kernels as K
from cnn_jax.analysis.cases import Case, classes, normal, positive, random_key

POINTWISE = "1x1 convolution"
DENSE = "dense convolution"
DEPTHWISE = "depthwise convolution"
GROUPED = "grouped convolution"
TRANSPOSED = "transposed convolution"
MAX_POOL = "max-pool"
AVG_POOL = "average pool"
NORM = "normalisation"
ACTIVATION = "activation"
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a network, to be measured.

    Attributes:
      network: The network it is taken from.
      group: The group of layers whose ratios are averaged together.
      case: The kernel with its arguments and options.
      passes: What is measured: pass -> the arguments that the gradient is taken by,
        or None for the forward pass alone; "both" stands for forward and backward in
        one program.
    """

    network: str
    group: str
    case: Case
    passes: Mapping[str, tuple[str, ...] | None]

    def __str__(self) -> str:
        """Returns the row's name: unique, and what `--cases` is matched against."""
        return f"{self.case} ({self.network})"


def _filter(network, kernel, group, label, x, w, **options) -> Layer:
    size = "x".join(map(str, x))
    return Layer(
        network,
        group,
        Case(kernel, f"{label}, {size}", {"x": normal(*x), "w": normal(*w)}, options),
        {"forward": None, "dx": ("x",), "dw": ("w",)},
    )


def _conv(network, x, features, size, *, groups=1, **options) -> Layer:
    """Makes a square convolution, padded as PyTorch's models are by default."""
    inputs, padding = x[-1], options.pop("padding", size // 2)
    w = (size, size, inputs // groups, features)
    group, label = DENSE, f"{size}x{size}, {inputs} to {features}"
    if groups == inputs > 1:
        group, label = DEPTHWISE, f"depthwise {size}x{size}"
    elif groups > 1:
        group, label = GROUPED, f"{label}, {groups} groups"
    elif size == 1:
        group = POINTWISE
    if options.get("strides", 1) != 1:
        label += f", stride {options['strides']}"
    if options.get("dilation", 1) != 1:
        label += f", dilation {options['dilation']}"
    if groups > 1:
        options["groups"] = groups
    return _filter(network, "conv", group, label, x, w, padding=padding, **options)


def _depthwise(network, x, size, strides=1) -> Layer:
    return _conv(network, x, x[-1], size, groups=x[-1], strides=strides)


def _conv_transpose(network, x, features, size, strides) -> Layer:
    label = f"{size}x{size}, {x[-1]} to {features}, stride {strides}"
    w = (size, size, x[-1], features)
    return _filter(network, "conv_transpose", TRANSPOSED, label, x, w, strides=strides)


def _layer(network, group, kernel, label, arguments, **options) -> Layer:
    """Makes a layer whose gradients by all floating arguments are measured together."""
    gradients = tuple(name for name in arguments if name not in ("key", "labels"))
    return Layer(
        network,
        group,
        Case(kernel, label, arguments, options),
        {"forward": None, "backward": gradients, "both": gradients},
    )


def _size(shape) -> str:
    return "x".join(map(str, shape))


def _pool(network, kernel, x, window, strides, padding="VALID", **options) -> Layer:
    return _layer(
        network,
        MAX_POOL if kernel == "max_pool" else AVG_POOL,
        kernel,
        f"{window}x{window}, stride {strides}, {_size(x)}",
        {"x": normal(*x)},
        window=window,
        strides=strides,
        padding=padding,
        **options,
    )


def _activation(network, kernel, x) -> Layer:
    return _layer(network, ACTIVATION, kernel, _size(x), {"x": normal(*x)})


def _norm(network, kernel, x, label="", **options) -> Layer:
    c = x[-1]
    vectors = {"scale": positive(c), "bias": normal(c)}
    if kernel == "batch_norm_inference":
        vectors = {"mean": normal(c), "var": positive(c), **vectors}
    label = f"{label}{', ' if label else ''}{_size(x)}"
    return _layer(network, NORM, kernel, label, {"x": normal(*x), **vectors}, **options)


def _squeeze_excite(network, x, squeezed, **options) -> Layer:
    c = x[-1]
    arguments = {
        "x": normal(*x),
        "squeeze_w": normal(c, squeezed),
        "squeeze_b": normal(squeezed),
        "expand_w": normal(squeezed, c),
        "expand_b": normal(c),
    }
    label = f"{squeezed} of {c}, {_size(x)}"
    return _layer(network, OTHER, "squeeze_excite", label, arguments, **options)


def _dense(network, rows, inputs, outputs) -> Layer:
    return _filter(
        network,
        "dense",
        OTHER,
        f"{inputs} to {outputs}",
        (rows, inputs),
        (inputs, outputs),
    )


LAYERS = (
    # Dense convolutions.
    _conv("LeNet-5", (256, 32, 32, 1), 6, 5, padding=0),
    _conv("LeNet-5", (256, 14, 14, 6), 16, 5, padding=0),
    _conv("AlexNet", (16, 224, 224, 3), 64, 11, strides=4, padding=2),
    _conv("VGG-16", (4, 224, 224, 3), 64, 3),
    _conv("VGG-16", (4, 56, 56, 256), 256, 3),
    _conv("VGG-16", (8, 14, 14, 512), 512, 3),
    _conv("ResNet-20", (128, 32, 32, 16), 16, 3),
    _conv("ResNet-20", (128, 32, 32, 16), 32, 3, strides=2),
    _conv("ResNet-20", (128, 16, 16, 32), 64, 3, strides=2),
    _conv("ResNet-20", (128, 8, 8, 64), 64, 3),
    _conv("ResNet-50", (8, 224, 224, 3), 64, 7, strides=2),
    _conv("ResNet-50", (32, 32, 32, 64), 64, 3),
    _conv("ResNet-50", (32, 32, 32, 64), 128, 3, strides=2),
    _conv("ResNet-50", (8, 56, 56, 128), 128, 3, strides=2),
    _conv("ResNet-50", (16, 7, 7, 512), 512, 3),
    _conv("MobileNetV2", (16, 224, 224, 3), 32, 3, strides=2),
    _conv("DeepLabv3", (4, 28, 28, 256), 256, 3, dilation=2, padding=2),
    # 1x1 convolutions.
    _conv("ResNet-50", (8, 56, 56, 64), 256, 1),
    _conv("ResNet-50", (8, 56, 56, 256), 64, 1),
    _conv("ResNet-50", (32, 28, 28, 128), 256, 1),
    _conv("ResNet-50", (8, 56, 56, 256), 512, 1, strides=2),
    _conv("MobileNetV1", (8, 112, 112, 32), 64, 1),
    _conv("MobileNetV1", (8, 56, 56, 128), 128, 1),
    _conv("MobileNetV1", (8, 28, 28, 256), 256, 1),
    _conv("MobileNetV2", (8, 56, 56, 24), 144, 1),
    _conv("EfficientNet-B0", (8, 112, 112, 32), 16, 1),
    _conv("EfficientNet-B0", (8, 112, 112, 16), 96, 1),
    _conv("EfficientNet-B0", (8, 56, 56, 144), 24, 1),
    _conv("EfficientNet-B0", (8, 14, 14, 672), 112, 1),
    _conv("EfficientNet-B0", (8, 7, 7, 320), 1280, 1),
    # Depthwise convolutions.
    _depthwise("MobileNetV1", (16, 56, 56, 96), 3),
    _depthwise("MobileNetV1", (8, 112, 112, 64), 3, strides=2),
    _depthwise("MobileNetV1", (16, 14, 14, 512), 3),
    _depthwise("MobileNetV2", (8, 112, 112, 32), 3),
    _depthwise("EfficientNet-B0", (16, 56, 56, 96), 5, strides=2),
    _depthwise("EfficientNet-B0", (8, 28, 28, 240), 5),
    _depthwise("EfficientNet-B0", (8, 28, 28, 240), 3, strides=2),
    _depthwise("EfficientNet-B0", (8, 14, 14, 672), 5, strides=2),
    _depthwise("ConvNeXt-T", (4, 28, 28, 192), 7),
    _conv("Xception", (8, 28, 28, 64), 128, 3, groups=64),
    # Grouped convolutions.
    _conv("AlexNet", (16, 27, 27, 96), 256, 5, groups=2),
    _conv("ResNeXt-50", (16, 28, 28, 128), 128, 3, groups=32),
    _conv("ResNeXt-50", (4, 56, 56, 128), 128, 3, groups=32),
    _conv("ResNeXt-50", (4, 28, 28, 256), 256, 3, groups=32, strides=2),
    _conv("ResNeXt-50", (4, 14, 14, 512), 512, 3, groups=32),
    _conv("ShuffleNet", (8, 28, 28, 240), 240, 1, groups=3),
    # Transposed convolutions.
    _conv_transpose("U-Net", (4, 28, 28, 128), 64, 2, 2),
    _conv_transpose("DCGAN", (16, 16, 16, 256), 128, 4, 2),
    # Pooling.
    _pool("LeNet-5", "max_pool", (256, 28, 28, 6), 2, 2),
    _pool("AlexNet", "max_pool", (32, 55, 55, 64), 3, 2),
    _pool("VGG-16", "max_pool", (32, 64, 64, 64), 2, 2),
    _pool("VGG-16", "max_pool", (8, 28, 28, 512), 2, 2),
    _pool("ResNet-50", "max_pool", (32, 112, 112, 64), 3, 2, padding=1),
    _pool("GoogLeNet", "max_pool", (16, 28, 28, 192), 3, 1, padding=1),
    _pool("LeNet-5", "avg_pool", (256, 28, 28, 6), 2, 2),
    _pool("DenseNet-121", "avg_pool", (16, 56, 56, 128), 2, 2),
    _pool(
        "Inception v3",
        "avg_pool",
        (16, 35, 35, 192),
        3,
        1,
        padding=1,
        count_include_pad=False,
    ),
    _layer(
        "ResNet-50",
        AVG_POOL,
        "global_avg_pool",
        "64x7x7x2048",
        {"x": normal(64, 7, 7, 2048)},
    ),
    _layer(
        "AlexNet",
        AVG_POOL,
        "adaptive_avg_pool",
        "6x6 of 128x9x9x256",
        {"x": normal(128, 9, 9, 256)},
        output_size=6,
    ),
    # Normalisation.
    _norm("ResNet-20", "batch_norm", (128, 32, 32, 16), epsilon=1e-5),
    _norm("ResNet-50", "batch_norm", (32, 56, 56, 64), epsilon=1e-5),
    _norm(
        "ResNet-50",
        "batch_norm",
        (32, 56, 56, 64),
        "and relu",
        epsilon=1e-5,
        activation=K.relu,
    ),
    _norm(
        "EfficientNet-B0",
        "batch_norm",
        (8, 56, 56, 144),
        "and silu",
        epsilon=1e-3,
        activation=K.silu,
    ),
    _norm("ResNet-50", "batch_norm_inference", (32, 56, 56, 64), epsilon=1e-5),
    _norm("ConvNeXt-T", "layer_norm", (16, 56, 56, 96), epsilon=1e-6),
    _norm("ResNet-50 GN", "group_norm", (8, 56, 56, 256), num_groups=32, epsilon=1e-5),
    _layer(
        "ZFNet",
        NORM,
        "local_response_norm",
        "16x55x55x96",
        {"x": normal(16, 55, 55, 96)},
    ),
    # Activations.
    _activation("ResNet-50", "relu", (32, 56, 56, 64)),
    _activation("MobileNetV2", "relu6", (16, 56, 56, 144)),
    _activation("EfficientNet-B0", "silu", (16, 56, 56, 144)),
    _activation("ConvNeXt-T", "gelu", (8, 56, 56, 384)),
    _activation("MobileNetV3", "hard_swish", (16, 28, 28, 240)),
    _activation("MobileNetV3", "hard_sigmoid", (256, 960)),
    _activation("EfficientNet-B0", "sigmoid", (256, 1152)),
    # The rest.
    _dense("VGG-16", 64, 4096, 4096),
    _dense("ResNet-50", 256, 2048, 1000),
    _squeeze_excite("SE-ResNet-50", (8, 28, 28, 512), 32),
    _squeeze_excite("EfficientNet-B0", (8, 28, 28, 240), 10, activation=K.silu),
    _layer(
        "VGG-16",
        OTHER,
        "dropout",
        "256x4096",
        {"x": normal(256, 4096), "key": random_key()},
        rate=0.5,
    ),
    _layer(
        "ResNet-50",
        OTHER,
        "spatial_dropout",
        "32x14x14x1024",
        {"x": normal(32, 14, 14, 1024), "key": random_key()},
        rate=0.1,
    ),
    _layer(
        "ResNet-50",
        OTHER,
        "drop_block",
        "7x7, 32x14x14x1024",
        {"x": normal(32, 14, 14, 1024), "key": random_key()},
        rate=0.1,
        block_size=7,
    ),
    _layer(
        "EfficientNet-B0",
        OTHER,
        "stochastic_depth",
        "16x28x28x80",
        {"x": normal(16, 28, 28, 80), "key": random_key()},
        rate=0.2,
    ),
    _layer(
        "ResNet-50",
        OTHER,
        "softmax_cross_entropy",
        "1024x1000",
        {"logits": normal(1024, 1000), "labels": classes(1000, 1024)},
    ),
    _layer(
        "Inception v3",
        OTHER,
        "softmax_cross_entropy",
        "smoothed, 1024x1000",
        {"logits": normal(1024, 1000), "labels": classes(1000, 1024)},
        label_smoothing=0.1,
    ),
)
"""The suite. Shapes are those of the networks' layers at 224 pixels or CIFAR's 32."""
