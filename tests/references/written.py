"""Networks that no library has, written out in PyTorch from their papers."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


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
