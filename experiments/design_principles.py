"""Design principles: what each of them changes, one at a time.

    python experiments/design_principles.py
    python experiments/design_principles.py --panel degradation --dataset cifar10

Six panels, each one question: depth with and without skip connections, bottlenecks,
stacks of small filters against large ones, depth, width and resolution, depthwise-
separable convolutions and channel gates, and the head. In a panel the networks differ
in that one respect and are trained under one recipe, once for each seed; claims are
tested seed by seed. The run directory gets `report.html`, `results.json` and
`summary.md`; `--resume` keeps what is finished.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import sys

from gradient_norms import GRADIENT_NORMS
from principle_networks import staged

from cnn_jax.studies import (
    Effect,
    LineChart,
    Panel,
    ScatterChart,
    Size,
    Study,
    Variant,
    main,
    network,
)

DEGRADATION = Panel(
    name="degradation",
    title="Depth with and without skip connections",
    question="A deeper network can compute all that a shallower one can. Plain "
    "networks of 20 and 56 layers, and the same with skip connections (He et al. "
    "2015): does depth help, and if not, is it fitting or generalising that fails?",
    variants=tuple(
        Variant(name, network(name), series=series, position=depth)
        for series, kind in (("plain", "plain"), ("with skips", "resnet"))
        for depth in (20, 56)
        for name in (f"{kind}{depth}",)
    ),
    effects=(
        Effect(
            "Without skip connections, 56 layers fit the training set worse than 20",
            *("plain56", "plain20", "train_loss", "higher"),
        ),
        Effect(
            "Without skip connections, 56 layers are less accurate than 20",
            *("plain56", "plain20", "test_accuracy", "lower"),
        ),
        Effect(
            "At 56 layers, skip connections make the training loss lower",
            *("resnet56", "plain56", "train_loss", "lower"),
        ),
        Effect(
            "At 20 layers, skip connections make the training loss lower",
            *("resnet20", "plain20", "train_loss", "lower"),
        ),
    ),
    columns=("test_accuracy", "train_accuracy", "train_loss", "parameters", "macs"),
    charts=(LineChart("Training loss over depth", "train_loss", "layers"),),
    measurements=(GRADIENT_NORMS,),
)

BASIC = Variant("basic blocks", staged(design="basic"))

BOTTLENECKS = Panel(
    name="bottlenecks",
    title="1x1 convolutions and bottlenecks",
    question="A bottleneck reduces the channels to a quarter by a 1x1 convolution, "
    "filters them, and restores them by another. Beside two 3x3 convolutions (basic "
    "blocks): the same channels for an eighth of the multiply-adds, or four times the "
    "channels for as many.",
    variants=(
        BASIC,
        Variant("bottlenecks", staged(design="bottleneck")),
        Variant(
            "bottlenecks, 4x wide",
            staged(design="bottleneck", widths=(64, 128, 256)),
        ),
    ),
    effects=(
        Effect(
            "Bottlenecks of the same channels are less accurate",
            *("bottlenecks", "basic blocks", "test_accuracy", "lower"),
        ),
        Effect(
            "With as many multiply-adds and more channels, they are more accurate",
            *("bottlenecks, 4x wide", "basic blocks", "test_accuracy", "higher"),
        ),
        Effect(
            "With as many multiply-adds, their training step takes longer",
            *("bottlenecks, 4x wide", "basic blocks", "step_seconds", "higher"),
        ),
    ),
    columns=("test_accuracy", "parameters", "macs", "activation_bytes", "step_seconds"),
    charts=(
        ScatterChart("Bottlenecks: accuracy over multiply-adds"),
        ScatterChart("Bottlenecks: accuracy over parameters", over="parameters"),
    ),
)

FILTER_SIZES = Panel(
    name="filter_sizes",
    title="Stacks of 3x3 filters against larger ones",
    question="In each stage six layers of 3x3, three of 5x5 or two of 7x7 filters see "
    "the same 13x13 pixels (Simonyan and Zisserman 2014): more layers with fewer "
    "parameters, or fewer with more?",
    variants=(
        Variant("six 3x3", staged(kernel_size=3, depth=6)),
        Variant("three 5x5", staged(kernel_size=5, depth=3)),
        Variant("two 7x7", staged(kernel_size=7, depth=2)),
    ),
    effects=tuple(
        Effect(
            f"Six layers of 3x3 filters are more accurate than {other}",
            *("six 3x3", other, "test_accuracy", "higher"),
        )
        for other in ("three 5x5", "two 7x7")
    ),
    columns=("test_accuracy", "train_loss", "parameters", "macs", "step_seconds"),
    charts=(ScatterChart("Filter sizes: accuracy over multiply-adds"),),
)

SCALING = Panel(
    name="scaling",
    title="Depth, width, resolution, or a little of each",
    question="Twice the multiply-adds of a small network, spent on layers, on "
    "channels, on pixels (images are enlarged, which adds no detail), or on all three, "
    "as EfficientNet's compound rule has it (Tan and Le 2019).",
    variants=(
        Variant("base", staged(depth=3)),
        Variant("deeper", staged(depth=6)),
        Variant("wider", staged(depth=3, widths=(23, 45, 91))),
        Variant("larger images", staged(depth=3, resolution=45)),
        Variant("compound", staged(depth=4, widths=(18, 35, 70), resolution=36)),
    ),
    effects=tuple(
        Effect(
            f"Compound scaling is more accurate than {name}",
            *("compound", variant, "test_accuracy", "higher"),
        )
        for name, variant in (
            ("the base", "base"),
            ("depth alone", "deeper"),
            ("width alone", "wider"),
            ("resolution alone", "larger images"),
        )
    ),
    columns=("test_accuracy", "train_loss", "parameters", "macs", "step_seconds"),
    charts=(ScatterChart("Scaling: accuracy over multiply-adds"),),
)

SEPARABLE = Panel(
    name="separable",
    title="Depthwise-separable convolutions and channel gates",
    question="A depthwise convolution and a 1x1 one in place of a full one (Howard et "
    "al. 2017), at the same channels and at twice the channels, and with "
    "squeeze-and-excite gates (Hu et al. 2017). Multiply-adds and time are different "
    "costs: the table has both.",
    variants=(
        Variant("full", staged()),
        Variant("full, gated", staged(squeeze_excite=True)),
        Variant("separable", staged(design="separable")),
        Variant("separable, gated", staged(design="separable", squeeze_excite=True)),
        Variant("separable, 2x wide", staged(design="separable", widths=(32, 64, 128))),
    ),
    effects=(
        Effect(
            "At the same channels, separable convolutions are less accurate",
            *("separable", "full", "test_accuracy", "lower"),
        ),
        Effect(
            "At the same channels, their training step is faster",
            *("separable", "full", "step_seconds", "lower"),
        ),
        Effect(
            "With twice the channels they are more accurate than full ones",
            *("separable, 2x wide", "full", "test_accuracy", "higher"),
        ),
        Effect(
            "With twice the channels their step takes longer than full ones'",
            *("separable, 2x wide", "full", "step_seconds", "higher"),
        ),
        Effect(
            "Channel gates make full convolutions more accurate",
            *("full, gated", "full", "test_accuracy", "higher"),
        ),
        Effect(
            "Channel gates make separable convolutions more accurate",
            *("separable, gated", "separable", "test_accuracy", "higher"),
        ),
    ),
    columns=("test_accuracy", "parameters", "macs", "step_seconds", "activation_bytes"),
    charts=(
        ScatterChart("Separable: accuracy over multiply-adds"),
        ScatterChart("Separable: time over multiply-adds", "step_seconds"),
    ),
)

HEADS = Panel(
    name="heads",
    title="Global pooling against a dense head",
    question="The last maps averaged over their pixels (Lin et al. 2013), or flattened "
    "into a hidden layer of 128 features as in the networks before.",
    variants=(
        Variant("global pooling", staged(depth=3, head="pool")),
        Variant("dense head", staged(depth=3, head="dense")),
    ),
    effects=(
        Effect(
            "The dense head has the larger generalisation gap",
            *("dense head", "global pooling", "gap", "higher"),
        ),
        Effect(
            "Global pooling is more accurate",
            *("global pooling", "dense head", "test_accuracy", "higher"),
        ),
    ),
    columns=("test_accuracy", "train_accuracy", "gap", "parameters", "macs"),
)

STUDY = Study(
    name="design_principles",
    title="Design principles, one at a time",
    panels=(DEGRADATION, BOTTLENECKS, FILTER_SIZES, SCALING, SEPARABLE, HEADS),
    recipe={
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "crop_padding": 2,
    },
    sizes={
        "smoke": Size(train_per_class=16, test_per_class=8, epochs=1, seeds=2),
        "default": Size(train_per_class=200, test_per_class=100, epochs=6, seeds=3),
        "results": Size(train_per_class=1000, test_per_class=200, epochs=15, seeds=3),
        "full": Size(train_per_class=0, test_per_class=0, epochs=100, seeds=5),
    },
)


if __name__ == "__main__":
    sys.exit(main(STUDY, description=__doc__))
