"""Regularisation: what each method does to the gap, to calibration and to stability.

    python experiments/regularization.py
    python experiments/regularization.py --panel methods --dataset cifar10

Four panels: the methods beside no method at all, with all and with a quarter of the
training examples; the learning rates that batch norm allows, and the loss along the
gradient; batch sizes with batch norm and with group norm; early stopping. Every run of
a panel takes the same number of steps. The run directory gets `report.html`,
`results.json` and `summary.md`; `--resume` keeps what is finished.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import sys
from typing import Any

from loss_along_gradient import LOSS_ALONG_GRADIENT
from principle_networks import group_norm, staged

from cnn_jax.studies import Effect, LineChart, Panel, Size, Study, Variant, main

COLUMNS = ("test_accuracy", "train_accuracy", "gap", "test_calibration_error")

NONE: dict[str, Any] = {"weight_decay": 0.0, "crop_padding": 0}

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}),
    "weight decay": ({}, {"weight_decay": 5e-4}),
    "dropout": ({"dropout_rate": 0.3}, {}),
    "spatial dropout": ({"spatial_dropout_rate": 0.1}, {}),
    "DropBlock": ({"drop_block_rate": 0.1}, {}),
    "stochastic depth": ({"stochastic_depth_rate": 0.2}, {}),
    "label smoothing": ({}, {"label_smoothing": 0.1}),
    "random crops": ({}, {"crop_padding": 4}),
    "random crops and flips": ({}, {"crop_padding": 4, "flip": True}),
    "mixup": ({}, {"mixup_alpha": 0.2}),
    "CutMix": ({}, {"cutmix_alpha": 1.0}),
    "crops, weight decay and CutMix": (
        {},
        {"crop_padding": 4, "weight_decay": 5e-4, "cutmix_alpha": 1.0},
    ),
}
"""Fields of the network and of the recipe that each method sets."""

SHARES = {1.0: "all examples", 0.25: "a quarter"}


def _method(name: str, share: float) -> Variant:
    fields, recipe = METHODS[name]
    return Variant(
        f"{name}, {SHARES[share]}",
        staged(design="basic", **fields),
        {**NONE, **recipe},
        share=share,
        series=name,
        position=share,
    )


METHODS_PANEL = Panel(
    name="methods",
    title="Methods beside none, with all examples and with a quarter",
    question="One network and one recipe, to which a method is added at a time. Does "
    "it narrow the generalisation gap, does it raise the test accuracy, and does it "
    "matter more when there are fewer examples?",
    variants=tuple(_method(name, share) for share in SHARES for name in METHODS),
    effects=(
        *(
            Effect(
                f"{name[0].upper()}{name[1:]} narrows the gap with a quarter of the "
                "examples",
                *(f"{name}, a quarter", "none, a quarter", "gap", "lower"),
            )
            for name in ("weight decay", "dropout", "random crops", "CutMix")
        ),
        *(
            Effect(
                f"{name[0].upper()}{name[1:]} raises the test accuracy with {share}",
                *(f"{name}, {share}", f"none, {share}", "test_accuracy", "higher"),
            )
            for share in SHARES.values()
            for name in METHODS
            if name != "none"
        ),
    ),
    columns=COLUMNS,
)

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

NORMS = {"batch norm": {}, "no normalisation": {"norm": None}}


def _rate(name: str, rate: float) -> Variant:
    return Variant(
        f"{name}, rate {rate:g}",
        staged(**NORMS[name]),
        {**NONE, "learning_rate": rate, "schedule": "constant"},
        series=name,
        position=rate,
    )


LEARNING_RATES = Panel(
    name="learning_rates",
    title="Learning rates with and without batch norm",
    question="The same stack of convolutions with batch norm and without any "
    "normalisation, at constant learning rates: up to which does it train, and how "
    "smooth is the loss along the gradient (Santurkar et al. 2018)?",
    variants=tuple(_rate(name, rate) for name in NORMS for rate in RATES),
    effects=tuple(
        Effect(
            f"At a rate of {rate:g}, batch norm makes the training loss lower",
            f"batch norm, rate {rate:g}",
            f"no normalisation, rate {rate:g}",
            "train_loss",
            "lower",
        )
        for rate in RATES
    ),
    columns=("test_accuracy", "train_loss"),
    charts=(
        LineChart(
            "Test accuracy over the learning rate",
            *("test_accuracy", "learning rate (logarithmic)"),
            is_log=True,
        ),
    ),
    measurements=(LOSS_ALONG_GRADIENT,),
)

BATCH_SIZES = (2, 4, 16, 64, 256)

BATCH_NORMS = {"batch norm": {}, "group norm": {"norm": group_norm}}


def _batch(name: str, size: int) -> Variant:
    return Variant(
        f"{name}, batches of {size}",
        staged(**BATCH_NORMS[name]),
        # The rate grows with the batch (Goyal et al. 2017): as many examples, as far.
        {**NONE, "batch_size": size, "learning_rate": 0.1 * size / 128},
        series=name,
        position=size,
    )


BATCH_SIZES_PANEL = Panel(
    name="batch_sizes",
    title="Small batches with batch norm and with group norm",
    question="Batch norm's statistics are those of a batch, group norm's those of an "
    "example (Wu and He 2018). The learning rate grows with the batch size, and every "
    "run sees the same number of examples.",
    variants=tuple(_batch(name, size) for name in BATCH_NORMS for size in BATCH_SIZES),
    effects=(
        *(
            Effect(
                f"{name[0].upper()}{name[1:]} is less accurate with batches of 2 than "
                "of 64",
                *(f"{name}, batches of 2", f"{name}, batches of 64"),
                *("test_accuracy", "lower"),
            )
            for name in BATCH_NORMS
        ),
        *(
            Effect(
                f"Batches of {size}: batch norm is {word} accurate than group norm",
                *(f"batch norm, batches of {size}", f"group norm, batches of {size}"),
                *("test_accuracy", expected),
            )
            for size, word, expected in ((2, "less", "lower"), (64, "more", "higher"))
        ),
    ),
    columns=("test_accuracy", "train_loss"),
    charts=(
        LineChart(
            "Test accuracy over the batch size",
            *("test_accuracy", "batch size (logarithmic)"),
            is_log=True,
        ),
    ),
)


def _stopping(name: str, patience: int | None) -> Variant:
    return Variant(
        name,
        staged(design="basic", head="dense"),
        {
            **NONE,
            "validation_fraction": 0.2,
            "schedule": "constant",
            "learning_rate": 0.03,
            "patience": patience,
        },
        # Enough epochs to overfit: a quarter of the examples, four times as often.
        share=0.25,
    )


EARLY_STOPPING = Panel(
    name="early_stopping",
    title="Early stopping",
    question="A network with a dense head on few examples, at a constant rate, until "
    "the validation accuracy has not risen for three epochs, or to the end. A fifth of "
    "the examples is held out; both keep their best epoch by it. What is saved, and "
    "what does it cost?",
    variants=(_stopping("stopped early", 3), _stopping("to the end", None)),
    effects=(
        Effect(
            "Early stopping trains for fewer epochs",
            *("stopped early", "to the end", "epochs_run", "lower"),
        ),
        Effect(
            "The best epoch of a whole run is more accurate",
            *("to the end", "stopped early", "test_accuracy", "higher"),
        ),
    ),
    columns=("test_accuracy", "train_accuracy", "gap", "epochs_run", "train_seconds"),
)

STUDY = Study(
    name="regularization",
    title="Regularisation, method by method",
    panels=(METHODS_PANEL, LEARNING_RATES, BATCH_SIZES_PANEL, EARLY_STOPPING),
    recipe={"batch_size": 128, "optimizer": "sgd", "learning_rate": 0.1},
    sizes={
        "smoke": Size(train_per_class=80, test_per_class=8, epochs=1, seeds=2),
        "default": Size(train_per_class=200, test_per_class=100, epochs=8, seeds=3),
        "results": Size(train_per_class=500, test_per_class=200, epochs=30, seeds=3),
        "full": Size(train_per_class=0, test_per_class=0, epochs=100, seeds=5),
    },
)


if __name__ == "__main__":
    sys.exit(main(STUDY, description=__doc__))
