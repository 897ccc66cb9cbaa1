"""EfficientNet-B0 on ImageNet: 400 epochs of RMSProp, streamed.

    cnn-jax prepare imagenet2012 --from DIR_WITH_THE_TAR_FILES --data-dir DIR
    python experiments/imagenet_efficientnet_b0.py --data-dir DIR --preset v5e_8

Aims at a top-1 accuracy of 77.4 %: NVIDIA's DeepLearningExamples (PyTorch,
Classification/ConvNets/efficientnet, "Training accuracy") report 77.42 +- 0.11 % for
this recipe on 8 A100 in mixed precision. The paper (Tan and Le 2019, arXiv:1905.11946,
table 2) has 77.1 %, and torchvision's weights 77.69 %. Optimizer, learning rate (0.08
for a batch of 4,096), warm-up, cosine, decay, smoothing, mixup and AutoAugment are
NVIDIA's; RMSProp's epsilon and the average of the weights that is evaluated (0.9999)
are those of the paper's authors. It has not been run here.

Every field of the configuration is an option.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import imagenet_presets

from cnn_jax.experiment import main
from cnn_jax.training import TrainConfig

CONFIG = TrainConfig(
    model="efficientnet_b0",
    dataset="imagenet2012",
    test_split="validation",
    data_path="stream",
    image_size=224,
    augmentation="autoaugment",
    num_workers=8,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    epochs=400,
    batch_size=1024,
    dtype="bfloat16",
    optimizer="rmsprop",
    learning_rate=0.02,  # 0.005 for every 256 images of a batch
    momentum=0.9,
    nesterov=False,
    second_moment_decay=0.9,
    epsilon=1e-3,
    weight_decay=1e-5,
    schedule="cosine",
    warmup_epochs=16,
    ema_decay=0.9999,
    label_smoothing=0.1,
    mixup_alpha=0.2,
    run_dir="runs/imagenet_efficientnet_b0",
)

# The rule for the rate was used up to 4,096 images; of 256 chips with 16 each, eight
# share their statistics, so that these are of 128.
PRESETS = imagenet_presets.make_presets(
    {"v5e_8": 256, "v5e_256": 16, "v4_32": 256, "gpu_8": 256},
    rate_for_256=0.005,
    batch_norm_scope={
        **dict.fromkeys(imagenet_presets.MACHINES, "device"),
        "v5e_256": 8,
    },
)

if __name__ == "__main__":
    main(CONFIG, __doc__, presets=PRESETS)
