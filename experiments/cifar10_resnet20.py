"""ResNet-20 on CIFAR-10: one-cycle SGD with crops and flips.

    python experiments/cifar10_resnet20.py --data-dir DIR

Every field of the configuration is an option. The run directory gets the resolved
configuration, the metrics and the result; `--resume` continues it. Five epochs take
about 40 minutes on two CPU cores (`experiments/results/cifar10_resnet20.md`); a
terminal shows the time left.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

from cnn_jax.experiment import main
from cnn_jax.training import TrainConfig

CONFIG = TrainConfig(
    model="resnet20",
    dataset="cifar10",
    epochs=5,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.4,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="one_cycle",
    label_smoothing=0.1,
    crop_padding=4,
    flip=True,
    run_dir="runs/cifar10_resnet20",
)

if __name__ == "__main__":
    main(CONFIG, __doc__)
