"""Networks that no library has, written out in PyTorch from their papers.

Nothing here is shared with the models that are held against it. Needs the extra
`parity`.
"""

from torch import nn


def _named(*layers):
    """Returns the layers in a row; `(name, layer)` names one that has parameters."""
    row = nn.Sequential()
    for index, layer in enumerate(layers):
        name, layer = layer if isinstance(layer, tuple) else (f"{index}", layer)
        row.add_module(name, layer)
    return row


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
