"""The networks of the benchmark in PyTorch: plain modules, channels-last.

Written here, so that a host with nothing but torch can run them. Those that torchvision
has are layer by layer its own: the same parameters in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import torch
import torch.nn.functional as F
from torch import nn
from torch_peers import images_to_torch, to_torch, torch_device


class Trainer:
    """SGD with momentum on one batch, under autocast where its dtype is narrow.

    Args:
      name: A key of `NETWORKS`.
      images: `(n, height, width, channels)`, in the dtype to compute in; in float16
        the loss is scaled.
      labels: `(n,)` integers.
      compiled: Whether the network is compiled by `torch.compile`.

    Attributes:
      num_parameters: How many the network has.
      temporary_bytes: The most that a step had allocated beside what was there before
        it, of the steps since `forget_peak`; None on a CPU, where torch has no count.
    """

    def __init__(
        self, name: str, images: jax.Array, labels: jax.Array, *, compiled: bool
    ):
        # What JAX does by default: TensorFloat-32 where the device has it.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        self._device = torch_device()
        network = NETWORKS[name]().to(self._device, memory_format=torch.channels_last)
        network.train()
        self.num_parameters = sum(p.numel() for p in network.parameters())
        self._optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
        self._network = torch.compile(network) if compiled else network
        self._x = images_to_torch(images)
        self._y = to_torch(labels).long()
        self._scaler = torch.amp.GradScaler(
            self._device, enabled=self._x.dtype == torch.float16
        )
        self._before = 0

    def advance(self, steps: int) -> float:
        """Takes so many steps, waits for the device, and returns the last loss."""
        for _ in range(steps):
            loss = self._step()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def forget_peak(self) -> None:
        """Starts counting `temporary_bytes` anew."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    @property
    def temporary_bytes(self) -> int | None:
        if self._device != "cuda":
            return None
        return torch.cuda.max_memory_allocated() - self._before

    def _step(self) -> torch.Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        dtype = self._x.dtype
        with torch.autocast(self._device, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(self._network(self._x), self._y)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss


def free_memory() -> None:
    """Frees compiled networks, and returns deleted tensors' memory to the device."""
    # A class that was compiled too often is left uncompiled, silently.
    torch.compiler.reset()
    if torch_device() == "cuda":
        torch.cuda.empty_cache()


def _conv_norm(inputs, outputs, size, *, strides=1, groups=1, bias=False):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, strides, size // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(outputs),
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
        return x + _drop_examples(y, self.drop, self.training) if self.joins else y


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


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, strides):
        super().__init__()
        outputs = 4 * inner
        self.conv1, self.bn1 = _conv_norm(inputs, inner, 1)
        self.conv2, self.bn2 = _conv_norm(inner, inner, 3, strides=strides)
        self.conv3, self.bn3 = _conv_norm(inner, outputs, 1)
        self.downsample = None
        if inputs != outputs or strides > 1:
            self.downsample = _conv_norm(inputs, outputs, 1, strides=strides)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        x = x if self.downsample is None else self.downsample(x)
        return F.relu(y + x, inplace=True)


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = _conv_norm(3, 64, 7, strides=2)
        blocks, inputs = [], 64
        for inner, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for index in range(count):
                strides = 2 if inner > 64 and index == 0 else 1
                blocks.append(Bottleneck(inputs, inner, strides))
                inputs = 4 * inner
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(2048, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        return self.head(self.blocks(x).mean(dim=(2, 3)))


class VGG16BN(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += _conv_norm(inputs, outputs, 3, bias=True)
                layers.append(nn.ReLU(inplace=True))
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 1000),
        )

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.features(x), 7)
        return self.classifier(x.flatten(1))


class ChannelNorm(nn.LayerNorm):
    """Normalises the channels, which channels-last images have innermost."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels, drop):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((channels,), 1e-6))
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.drop = drop

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.layer_scale * self.project(F.gelu(self.expand(y)))
        return x + _drop_examples(y.permute(0, 3, 1, 2), self.drop, self.training)


class ConvNeXtTiny(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, eps=1e-6)]
        channels, number = 96, 0
        for count in (3, 3, 9, 3):
            if number:
                layers.append(ChannelNorm(channels, eps=1e-6))
                layers.append(nn.Conv2d(channels, 2 * channels, 2, 2))
                channels *= 2
            for _ in range(count):
                layers.append(ConvNeXtBlock(channels, 0.1 * number / 17))
                number += 1
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, 1000)

    def forward(self, x):
        return self.head(self.norm(self.layers(x).mean(dim=(2, 3))))


def _drop_examples(y, rate, training):
    if not training or rate == 0.0:
        return y
    kept = (torch.rand(len(y), device=y.device) >= rate).to(y.dtype)
    return y * (kept / (1 - rate))[:, None, None, None]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": ResNet20,
    "resnet50": ResNet50,
    "vgg16_bn": VGG16BN,
    "efficientnet_b0": EfficientNetB0,
    "convnext_tiny": ConvNeXtTiny,
}
