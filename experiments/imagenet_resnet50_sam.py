"""ResNet-50 on ImageNet: 100 epochs of sharpness-aware minimisation.

    python experiments/imagenet_resnet50_sam.py --data-dir DIR --preset v5e_8

Aims at a top-1 accuracy of 77.5 %: Foret et al. (2021, arXiv:2010.01412, table 2)
report an error of 22.5 % after 100 epochs, and 22.9 % without SAM, with a radius of
0.05, label smoothing and a cosine. Rate, warm-up and decay are those of
`experiments/imagenet_resnet50.py`, where the paper may have others, and the ascent is
along the gradient of the whole batch where the paper's is each device's. A step takes
the gradient twice. It has not been run here.

Of the modern recipes this is the one of 100 epochs that the configuration can express
to the last field. "ResNet strikes back" (Wightman et al. 2021, A3) has a binary
cross-entropy, repeated augmentation and RandAugment of another strength; torchvision's
has TrivialAugment, and 600 epochs.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import dataclasses

import imagenet_presets
import imagenet_resnet50

from cnn_jax.experiment import main

CONFIG = dataclasses.replace(
    imagenet_resnet50.CONFIG,
    epochs=100,
    sam_radius=0.05,
    run_dir="runs/imagenet_resnet50_sam",
)

PRESETS = imagenet_presets.make_presets(
    {"v5e_8": 256, "v5e_256": 32, "v4_32": 256, "gpu_8": 256},
    rate_for_256=0.1,
    batch_norm_scope=dict.fromkeys(imagenet_presets.MACHINES, "device"),
)

if __name__ == "__main__":
    main(CONFIG, __doc__, presets=PRESETS)
