"""ZFNet (Zeiler and Fergus 2013).

What does each layer of AlexNet respond to? Running its maps backwards through a
"deconvnet" shows first filters that see only extremes of frequency, and second ones
that alias. So the first filters shrink from 11x11 to 7x7 and their strides from 4 to 2,
and both faults are gone.

It made looking inside a network a way to improve it; its descendants won ImageNet 2013.

The network is figure 3 of the paper. Top-1 is the paper's (table 2, one network, an
average of ten crops).

    model    parameters     MACs/M   top-1/%
    zfnet    62,357,608    1,168.0     61.60

What the paper leaves open: the figure's map sizes (110, 55, 26, 13 and 6 from 224) fix
padding, which is 1, 0, 1, 1 and 1 on every side, and that pools round their number of
windows up; "contrast normalised across feature maps" is taken for AlexNet's local
response normalisation with its constants (5 channels, alpha 1e-4, beta 0.75, k 2); and
dropout is of the two hidden layers' outputs. Filters start from He's normal
distribution (the paper's have deviation 0.01). The last maps are averaged, or repeated,
to the 6x6 that the fully connected layers are made for, so any image of at least 47x47
is accepted.
"""

from __future__ import annotations

import functools

from cnn_jax import kernels as K
from cnn_jax.models.alexnet import AlexNet, Stage
from cnn_jax.models.registry import Family, Variant

_RESPONSE_NORM = functools.partial(
    K.local_response_norm, size=5, alpha=1e-4, beta=0.75, k=2.0
)

FAMILIES = (
    Family(
        name="zfnet",
        module=AlexNet,
        paper=(
            "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks"
        ),
        year=2013,
        url="https://arxiv.org/abs/1311.2901",
        top1_source="ImageNet; the paper's table 2, one network, ten crops",
        variants={
            "zfnet": Variant(
                parameters=62_357_608,
                macs=1_168_032_896,
                fields={
                    "stages": (
                        Stage((96,), 7, strides=2, padding=1),
                        Stage((256,), 5, strides=2),
                        Stage((384, 384, 256), 3, padding=1),
                    ),
                    "ceil_mode": True,
                    "response_norm": _RESPONSE_NORM,
                    "drop_inputs": False,
                },
                top1=61.60,
            )
        },
    ),
)
