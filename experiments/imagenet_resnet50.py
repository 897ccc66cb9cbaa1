"""ResNet-50 on ImageNet: 90 epochs with a batch of 1,024, streamed.

    cnn-jax prepare imagenet2012 --from DIR_WITH_THE_TAR_FILES --data-dir DIR
    python experiments/imagenet_resnet50.py --data-dir DIR

Any other set of photographs goes the same way, a folder with a directory per class say:

    python experiments/imagenet_resnet50.py --dataset folder:PATH --epochs 30

Every field of the configuration is an option. Images are decoded, cropped and flipped
on the host by `--num-workers` processes, and normalised on the devices. The learning
rate and its warm-up follow Goyal et al. (2017); it falls by a cosine instead of steps,
and labels are smoothed. It is meant for accelerators; how long it takes has not been
measured, but a terminal shows the time left.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

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

if __name__ == "__main__":
    main(CONFIG, __doc__)
