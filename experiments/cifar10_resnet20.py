"""ResNet-20 on CIFAR-10: one-cycle SGD with crops and flips.

    python experiments/cifar10_resnet20.py --data-dir DIR

Every field of the configuration is an option. The run directory gets the resolved
configuration, the metrics and the result; `--resume` continues it.
"""

from __future__ import annotations

import dataclasses
import sys

import tyro

from cnn_jax import create_model
from cnn_jax.data import load_dataset
from cnn_jax.training import TrainConfig
from cnn_jax.training.loop import FitResult, fit

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


def run(config: TrainConfig) -> FitResult:
    """Loads the data, makes the model and trains it."""
    train, test = (
        load_dataset(
            config.dataset,
            split,
            data_dir=config.data_dir,
            image_size=config.image_size,
        )
        for split in ("train", "test")
    )
    model = create_model(
        config.model, num_classes=train.num_classes, dtype=config.dtype
    )
    return fit(model, config, train, test, hooks=[print_epoch])


def print_epoch(record: dict, state: object) -> None:
    """Prints one line for each epoch."""
    if record["event"] == "epoch":
        print(
            f"epoch {record['epoch']}: train loss {record['train_loss']:.4f}, test "
            f"accuracy {record['test_accuracy']:.2%}, {record['seconds']:.0f} s",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs the experiment that the command line describes."""
    config = tyro.cli(TrainConfig, args=arguments, default=CONFIG, description=__doc__)
    for field, value in dataclasses.asdict(config).items():
        print(f"{field} = {value!r}")
    try:
        result = run(config)
    except (ValueError, FileNotFoundError, FileExistsError, ArithmeticError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(
        f"test accuracy {result.test['accuracy']:.2%} on "
        f"{result.test['num_examples']} examples (epoch {result.best_epoch}), "
        f"{result.step_seconds_median * 1e3:.0f} ms a step, "
        f"{result.train_seconds:.0f} s of training, "
        f"{result.compile_seconds:.0f} s of compiling\n"
        f"result in {result.run_dir}/result.json"
    )


if __name__ == "__main__":
    main()
