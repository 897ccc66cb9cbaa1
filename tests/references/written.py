"""The networks that no library has, written out in PyTorch from their papers."""

import torch


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
