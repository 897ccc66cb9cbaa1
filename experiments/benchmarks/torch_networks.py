"""The networks of the benchmark in PyTorch: plain modules, channels-last."""

from __future__ import annotations

from collections.abc import Callable

import jax
import torch
import torch.nn.functional as F
from torch import nn
from torch_peers import finished, images_to_torch, torch_device


def step(name: str, images: jax.Array, labels: jax.Array) -> Callable:
    """Returns a function that computes a network's loss and gradients.

    Args:
      name: A key of `NETWORKS`.
      images: `(n, height, width, channels)`.
      labels: `(n,)` integers.
    """
    network = NETWORKS[name]().to(torch_device(), memory_format=torch.channels_last)
    network.train()
    x = images_to_torch(images)
    y = torch.from_numpy(jax.device_get(labels)).long().to(torch_device())

    def forward_and_backward():
        for parameter in network.parameters():
            parameter.grad = None
        low = x.dtype != torch.float32
        with torch.autocast(torch_device(), dtype=x.dtype, enabled=low):
            loss = F.cross_entropy(network(x), y)
        loss.backward()
        return loss

    return finished(forward_and_backward)


def _conv_norm(inputs, outputs, size, *, strides=1, groups=1, eps=1e-5):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, strides, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps),
    )


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, strides):
        super().__init__()
        self.conv1 = _conv_norm(inputs, outputs, 3, strides=strides)
        self.conv2 = _conv_norm(outputs, outputs, 3)
        self.strides, self.missing = strides, outputs - inputs

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x)))
        x = x[:, :, :: self.strides, :: self.strides]
        front = self.missing // 2
        return F.relu(y + F.pad(x, (0, 0, 0, 0, front, self.missing - front)))


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = _conv_norm(3, 16, 3)
        blocks, inputs = [], 16
        for outputs in (16, 32, 64):
            for index in range(3):
                strides = 2 if outputs > 16 and index == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, strides))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean(dim=(2, 3)))


class InvertedBottleneck(nn.Module):
    def __init__(self, inputs, outputs, expansion, size, strides, drop):
        super().__init__()
        hidden, squeezed = inputs * expansion, max(1, inputs // 4)
        self.expand = _conv_norm(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = _conv_norm(
            hidden, hidden, size, strides=strides, groups=hidden
        )
        self.squeeze = nn.Linear(hidden, squeezed)
        self.excite = nn.Linear(squeezed, hidden)
        self.project = _conv_norm(hidden, outputs, 1)
        self.joins, self.drop = strides == 1 and inputs == outputs, drop

    def forward(self, x):
        y = x if self.expand is None else F.silu(self.expand(x))
        y = F.silu(self.depthwise(y))
        gate = self.excite(F.silu(self.squeeze(y.mean(dim=(2, 3)))))
        y = self.project(y * torch.sigmoid(gate)[:, :, None, None])
        if not self.joins:
            return y
        kept = (torch.rand(len(y), device=y.device) >= self.drop).to(y.dtype)
        return x + y * (kept / (1 - self.drop))[:, None, None, None]


class EfficientNetB0(nn.Module):
    # Channels, blocks, expansion, size of the filter, strides.
    STAGES = (
        (16, 1, 1, 3, 1),
        (24, 2, 6, 3, 2),
        (40, 2, 6, 5, 2),
        (80, 3, 6, 3, 2),
        (112, 3, 6, 5, 1),
        (192, 4, 6, 5, 2),
        (320, 1, 6, 3, 1),
    )

    def __init__(self):
        super().__init__()
        self.stem = _conv_norm(3, 32, 3, strides=2)
        blocks, inputs = [], 32
        total = sum(stage[1] for stage in self.STAGES)
        for outputs, count, expansion, size, strides in self.STAGES:
            for index in range(count):
                blocks.append(
                    InvertedBottleneck(
                        inputs,
                        outputs,
                        expansion,
                        size,
                        strides if index == 0 else 1,
                        0.2 * len(blocks) / total,
                    )
                )
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = _conv_norm(320, 1280, 1)
        self.head = nn.Linear(1280, 1000)

    def forward(self, x):
        x = F.silu(self.last(self.blocks(F.silu(self.stem(x)))))
        return self.head(F.dropout(x.mean(dim=(2, 3)), 0.2, self.training))


NETWORKS = {"resnet20": ResNet20, "efficientnet_b0": EfficientNetB0}
