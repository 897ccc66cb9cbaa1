"""Efficiency: where the time of a convolutional network goes, one choice at a time.

    python experiments/efficiency.py
    python experiments/efficiency.py --panel implementations precision

Seven panels: implementations of a layer, precision and batch size, fusion, memory that
is donated or computed anew, the compilation cache, the input, and TPUs. Calls are timed
in interleaved rounds on the machine that it runs on, and judged by the ratio of their
times, round by round, with a 95 % interval. The run directory gets `report.html`,
`results.json` and `summary.md`; `--resume` keeps what is measured. PyTorch is compared
where it is installed.
"""

from __future__ import annotations

from cnn_jax import program
from cnn_jax.allocator import keep_memory

if __name__ == "__main__":
    program.begin()
    # As training runs do; before the first computation.
    keep_memory()

import sys

import timed_input
import timed_layers as layers
import timed_steps as steps
from compiled_for_tpu import COMPILED_STEPS
from timed import Slower, comparison

from cnn_jax.studies import Measurement, Panel, Size, Study, main

SIZE = Size(train_per_class=10, test_per_class=10, epochs=1, seeds=1)
"""The data are not used: noise takes as long."""


def _layer(name: str, title: str, make, *explanation: str) -> Measurement:
    claims = [
        Slower(f"{title}: XLA's own forms take longer", layers.PLAIN, layers.OWN),
        Slower(f"{title}: PyTorch takes longer", layers.TORCH, layers.OWN),
    ]
    return comparison(name, title, make, claims, explanation)


IMPLEMENTATIONS = (
    comparison(
        "loops",
        "A small 3x3 convolution by loops",
        layers.by_loops,
        [Slower("Loops of Python take longer", layers.LOOPS, layers.OWN)],
        [
            "The loops are those that one derives on paper: an interpreted instruction "
            "for each patch. A compiled program does the same sums without them."
        ],
    ),
    _layer(
        "dense",
        "3x3 convolution of 64 channels",
        layers.layer(
            *("conv", (32, 32, 32, 64), {"w": (3, 3, 64, 64)}),
            lambda torch, x, w: torch.conv2d(x, w, padding=1),
            padding="SAME",
        ),
        "A dense convolution is a matrix product, which every library has an optimised "
        "form of; it is bound by arithmetic.",
    ),
    _layer(
        "depthwise",
        "3x3 depthwise convolution of 96 channels",
        layers.layer(
            *("conv", (16, 56, 56, 96), {"w": (3, 3, 1, 96)}),
            lambda torch, x, w: torch.conv2d(x, w, padding=1, groups=96),
            padding="SAME",
            groups=96,
        ),
        "Nine multiply-adds for each number read: it is bound by memory. XLA on a CPU "
        "computes each channel by itself, as a tiny matrix product.",
    ),
    _layer(
        "max_pool",
        "3x3 max-pooling with stride 2",
        layers.layer(
            *("max_pool", (16, 56, 56, 64), {}),
            lambda torch, x: torch.max_pool2d(x, 3, 2),
            window=3,
            strides=2,
        ),
        "The gradient needs the place of each maximum; XLA's own form finds it again "
        "in the backward pass.",
    ),
    _layer(
        "batch_norm",
        "Batch norm in training",
        layers.layer(
            *("batch_norm", (16, 56, 56, 64), {"scale": (64,), "bias": (64,)}),
            lambda torch, x, w, b: torch.batch_norm(x, None, None, w, b, training=True),
            epsilon=1e-5,
        ),
        "Two passes over the input in the forward direction, one of sums and one that "
        "normalises, and two over x and dy in the backward direction.",
    ),
)

STUDY = Study(
    name="efficiency",
    title="Where the time goes",
    panels=(
        Panel(
            name="implementations",
            title="One layer, by several implementations",
            question="Forward and backward through one layer: loops of NumPy, XLA's "
            "own forms under JAX's derivatives, our kernels, and PyTorch. Which "
            "layers depend on who computes them?",
            measurements=IMPLEMENTATIONS,
        ),
        Panel(
            name="precision",
            title="Precision and batch size",
            question="A training step of ResNet-20 in float32 and in bfloat16, and "
            "with 1 to 256 images: half the bytes, and fixed costs spread over more.",
            measurements=(
                comparison(
                    *("dtypes", "ResNet-20's step by dtype", steps.dtypes),
                    [Slower("bfloat16 takes longer", "bfloat16", "float32")],
                    [
                        "A TPU's MXU multiplies bfloat16, and a GPU's tensor cores do "
                        "so many times as fast as float32. A CPU gains only if it has "
                        "instructions for it and a library uses them; else every "
                        "operation converts to float32 and back."
                    ],
                ),
                comparison(
                    *("batches", "ResNet-20's step by batch size", steps.batches),
                    [
                        Slower(
                            "Alone, an image takes longer than among 64",
                            *("batch 1", "batch 64"),
                            per_image=True,
                        )
                    ],
                    [
                        "A step has costs that no image adds to: starting each of some "
                        "hundred operations, and the update of all parameters. Images "
                        "per second grow until arithmetic or memory is the bound."
                    ],
                ),
            ),
        ),
        Panel(
            name="fusion",
            title="One program against op by op",
            question="The same forward pass, compiled as a whole, and with each "
            "operation dispatched alone, as an eager framework does it: what is fusion "
            "worth?",
            measurements=(
                comparison(
                    *("fusion", "ResNet-20's forward pass", steps.fusion),
                    [Slower("Op by op takes longer", "op by op", "one program")],
                    [
                        "Op by op, every result is written to memory and read again, "
                        "and Python dispatches each one. A fused program keeps what "
                        "goes from one elementwise operation to the next in registers."
                    ],
                ),
            ),
        ),
        Panel(
            name="memory",
            title="Memory: computed anew, donated",
            question="Activations can be computed anew in the backward pass and not be "
            "kept (Chen et al. 2016), and a step's new state can take the old one's "
            "memory. What do both cost and save?",
            measurements=(
                comparison(
                    *("recomputation", "Activations", steps.recomputation),
                    [
                        Slower(
                            "Computing activations anew takes longer",
                            *("computed anew", "kept"),
                        )
                    ],
                    [
                        "The backward pass needs what the forward pass computed. "
                        "Where only the inputs of blocks are kept, each block runs "
                        "forward once more before it runs backward: about a third "
                        "more arithmetic, for memory that holds one block's "
                        "activations and not all. It pays where a larger batch, or "
                        "the network at all, would not fit otherwise."
                    ],
                ),
                comparison(
                    *("donation", "The state of a step", steps.donation),
                    [Slower("Copies take longer", "copied", "donated")],
                    [
                        "Parameters, momentum and statistics are as large after a step "
                        "as before: without donation both are there at once."
                    ],
                ),
            ),
        ),
        Panel(
            name="compilation",
            title="The compilation cache",
            question="XLA compiles every program before its first run. What does a "
            "cache on disk save a process that starts again?",
            measurements=(steps.STARTS,),
        ),
        Panel(
            name="input",
            title="The way of the images",
            question="Before a step there are 64 images of 128 x 128 to be had, "
            "normalised, on the device: from its own memory, from the host's, or from "
            "JPEGs.",
            measurements=(
                comparison(
                    *("ways", "One batch", timed_input.ways),
                    [
                        Slower(
                            "Decoding takes longer than images in memory",
                            *(timed_input.ENCODED, timed_input.HOST),
                        )
                    ],
                    [
                        "A small set stays on the device. A large one is decoded by "
                        "threads or processes of the host beside the step, whose "
                        "number follows from the step's time and the time measured "
                        "here, which is one thread's: "
                        "`experiments/benchmarks/input_pipeline.py` measures them."
                    ],
                ),
            ),
        ),
        Panel(
            name="tpu",
            title="Accelerators: cuDNN, XLA and the MXU",
            question="What of this differs on an accelerator, and what does its "
            "compiler say of a whole training step?",
            measurements=(COMPILED_STEPS,),
        ),
    ),
    recipe={},
    sizes=dict.fromkeys(("smoke", "default", "results", "full"), SIZE),
    is_of_data=False,
)

if __name__ == "__main__":
    sys.exit(main(STUDY, description=__doc__))
