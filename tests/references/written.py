"""The networks that no library has, written out in PyTorch from their papers."""

import itertools

import torch
import torch.nn.functional as F
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


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2; keys as in the public weights of ResNet-20."""

    def __init__(self, num_classes, depth, residual):
        super().__init__()
        count, rest = divmod(depth - 2, 6)
        assert not rest
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _cifar_stage(16, 16, 1, count, residual)
        self.layer2 = _cifar_stage(16, 32, 2, count, residual)
        self.layer3 = _cifar_stage(32, 64, 2, count, residual)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _cifar_stage(channels, features, stride, count, residual):
    first = _CifarBlock(channels, features, stride, residual)
    others = [_CifarBlock(features, features, 1, residual) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


class _CifarBlock(nn.Module):
    def __init__(self, channels, features, stride, residual):
        super().__init__()
        self.stride, self.missing, self.residual = stride, features - channels, residual
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.residual:
            half = self.missing // 2
            kept = x[:, :, :: self.stride, :: self.stride]
            y = y + F.pad(kept, (0, 0, 0, 0, half, self.missing - half))
        return F.relu(y)


class WideResNet(nn.Module):
    """Zagoruyko and Komodakis 2016, WRN-28-10; keys as timm's of ResNet v2."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(3, 16, 3, padding=1, bias=False)})
        widths = (16, 160, 320, 640)
        self.stages = nn.ModuleList(
            nn.ModuleDict(
                {
                    "blocks": nn.Sequential(
                        _WideBlock(channels, features, 1 if features == 160 else 2),
                        *(_WideBlock(features, features, 1) for _ in range(3)),
                    )
                }
            )
            for channels, features in itertools.pairwise(widths)
        )
        self.norm = nn.BatchNorm2d(640)
        self.head = nn.ModuleDict({"fc": nn.Linear(640, num_classes)})

    def forward(self, x):
        x = self.stem["conv"](x)
        for stage in self.stages:
            x = stage["blocks"](x)
        return self.head["fc"](torch.relu(self.norm(x)).mean((2, 3)))


class _WideBlock(nn.Module):
    def __init__(self, channels, features, stride):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.downsample = None
        if channels != features:
            conv = nn.Conv2d(channels, features, 1, stride, bias=False)
            self.downsample = nn.ModuleDict({"conv": conv})

    def forward(self, x):
        y = torch.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample["conv"](y)
        return shortcut + self.conv2(torch.relu(self.norm2(self.conv1(y))))
