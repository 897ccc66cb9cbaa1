"""The networks that no library has, written out in PyTorch from their papers."""

import torch
from torch import nn


def efficientnet_cifar(num_classes):
    """torchvision's own blocks, at the sizes and without the strides of our stem."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    network = EfficientNet(
        [
            MBConvConfig(expansion, size, strides, inputs, outputs, num_blocks)
            for expansion, size, strides, inputs, outputs, num_blocks in (
                (1, 3, 1, 16, 16, 1),
                (4, 3, 2, 16, 24, 3),
                (4, 5, 2, 24, 48, 3),
                (4, 3, 1, 48, 80, 3),
            )
        ],
        dropout=0.2,
        num_classes=num_classes,
        last_channel=256,
    )
    stem = network.features[0][0]
    network.features[0][0] = torch.nn.Conv2d(
        stem.in_channels, 16, 3, padding=1, bias=False
    )
    return network


def _named(*layers):
    """Returns the layers in a row; `(name, layer)` names one that has parameters."""
    row = nn.Sequential()
    for index, layer in enumerate(layers):
        name, layer = layer if isinstance(layer, tuple) else (f"{index}", layer)
        row.add_module(name, layer)
    return row


def lenet5(num_classes):
    """LeCun et al. 1998, with the paper's names of its layers.

    C5 finds one place in a 32x32 image; where there are more, they are averaged.
    """
    return _named(
        ("c1", nn.Conv2d(1, 6, 5)),
        nn.Tanh(),
        nn.AvgPool2d(2),
        ("c3", nn.Conv2d(6, 16, 5)),
        nn.Tanh(),
        nn.AvgPool2d(2),
        ("c5", nn.Conv2d(16, 120, 5)),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        ("f6", nn.Linear(120, 84)),
        nn.Tanh(),
        ("output", nn.Linear(84, num_classes)),
    )


def zfnet(num_classes):
    """Zeiler and Fergus 2013, figure 3, in torchvision's manner.

    Response normalisation as in Krizhevsky et al. 2012, whose alpha is not divided by
    the number of channels as PyTorch's is.
    """

    def response_norm():
        return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    features = nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        response_norm(),
        nn.Conv2d(96, 256, 5, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        response_norm(),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    classifier = nn.Sequential(
        nn.Linear(6 * 6 * 256, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )
    return _named(
        ("features", features),
        nn.AdaptiveAvgPool2d(6),
        nn.Flatten(),
        ("classifier", classifier),
    )


def vgg8_cifar(num_classes):
    """Simonyan and Zisserman's recipe for CIFAR-10, in torchvision's manner."""
    features, channels = nn.Sequential(), 3
    for width in (32, 64, 128):
        for _ in range(2):
            features.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            features.append(nn.BatchNorm2d(width))
            features.append(nn.ReLU())
            channels = width
        features.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(4 * 4 * 128, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, num_classes),
    )
    return _named(
        ("features", features),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        ("classifier", classifier),
    )


def nin(num_classes):
    """Lin et al. 2013, for ImageNet, with the layers' names in Caffe's definition.

    Caffe's pools round up; the last one there is 6x6, all that 224x224 leaves.
    """
    return _named(
        ("conv1", nn.Conv2d(3, 96, 11, stride=4)),
        nn.ReLU(),
        ("cccp1", nn.Conv2d(96, 96, 1)),
        nn.ReLU(),
        ("cccp2", nn.Conv2d(96, 96, 1)),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        ("conv2", nn.Conv2d(96, 256, 5, padding=2)),
        nn.ReLU(),
        ("cccp3", nn.Conv2d(256, 256, 1)),
        nn.ReLU(),
        ("cccp4", nn.Conv2d(256, 256, 1)),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        ("conv3", nn.Conv2d(256, 384, 3, padding=1)),
        nn.ReLU(),
        ("cccp5", nn.Conv2d(384, 384, 1)),
        nn.ReLU(),
        ("cccp6", nn.Conv2d(384, 384, 1)),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        ("conv4-1024", nn.Conv2d(384, 1024, 3, padding=1)),
        nn.ReLU(),
        ("cccp7-1024", nn.Conv2d(1024, 1024, 1)),
        nn.ReLU(),
        ("cccp8-1024", nn.Conv2d(1024, num_classes, 1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def nin_cifar(num_classes):
    """Lin et al. 2013, for CIFAR-10, sized and named likewise.

    A window that hangs over the edge averages what it sees, in Caffe as in PyTorch.
    """
    return _named(
        ("conv1", nn.Conv2d(3, 192, 5, padding=2)),
        nn.ReLU(),
        ("cccp1", nn.Conv2d(192, 160, 1)),
        nn.ReLU(),
        ("cccp2", nn.Conv2d(160, 96, 1)),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        ("conv2", nn.Conv2d(96, 192, 5, padding=2)),
        nn.ReLU(),
        ("cccp3", nn.Conv2d(192, 192, 1)),
        nn.ReLU(),
        ("cccp4", nn.Conv2d(192, 192, 1)),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        ("conv3", nn.Conv2d(192, 192, 3, padding=1)),
        nn.ReLU(),
        ("cccp5", nn.Conv2d(192, 192, 1)),
        nn.ReLU(),
        ("cccp6", nn.Conv2d(192, num_classes, 1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
