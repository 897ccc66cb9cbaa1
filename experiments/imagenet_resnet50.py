"""ResNet-50 on ImageNet: 90 epochs, streamed.

    cnn-jax prepare imagenet2012 --from DIR_WITH_THE_TAR_FILES --data-dir DIR
    python experiments/imagenet_resnet50.py --data-dir DIR --preset v5e_8

Any other set of photographs goes the same way, a folder with a directory per class say:

    python experiments/imagenet_resnet50.py --dataset folder:PATH --epochs 30

Aims at a top-1 accuracy of 76 % or more. Goyal et al. (2017, arXiv:1706.02677) report
an error of 23.60 % with a batch of 256 and 23.74 % with 8,192, after 90 epochs;
torchvision's weights IMAGENET1K_V1, 90 epochs too, reach 76.13 %. Learning rate, its
warm-up and the weight decay are theirs (norms and biases do not decay); the rate falls
by a cosine instead of steps, labels are smoothed and the momentum is Nesterov's. It has
not been run here: neither the accuracy nor the time has been measured.

Every field of the configuration is an option. Images are decoded, cropped and flipped
on the host by `--num-workers` processes, and normalised on the devices.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import imagenet_presets

from cnn_jax.experiment import main
from cnn_jax.training import TrainConfig

CONFIG = TrainConfig(
    model="resnet50",
    dataset="imagenet2012",
    test_split="validation",
    data_path="stream",
    image_size=224,
    augmentation="inception",
    num_workers=8,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    epochs=90,
    batch_size=1024,
    dtype="bfloat16",
    optimizer="sgd",
    learning_rate=0.4,  # 0.1 for every 256 images of a batch
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    schedule="cosine",
    warmup_epochs=5,
    label_smoothing=0.1,
    run_dir="runs/imagenet_resnet50",
)

# Goyal et al. normalise by the statistics of 32 images, as v5e_256 does; 256 chips with
# more of them would have a batch beyond 8,192, up to which their rule holds.
PRESETS = imagenet_presets.make_presets(
    {"v5e_8": 256, "v5e_256": 32, "v4_32": 256, "gpu_8": 256},
    rate_for_256=0.1,
    batch_norm_scope=dict.fromkeys(imagenet_presets.MACHINES, "device"),
)

if __name__ == "__main__":
    main(CONFIG, __doc__, presets=PRESETS)
