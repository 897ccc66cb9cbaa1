"""Backpropagation by hand: every gradient as numbers, beside jax.grad.

    python experiments/backpropagation.py
    python experiments/backpropagation.py --panel convolution sobel

Five panels: one convolution, a filter that learns to detect edges, pooling, batch norm
and a whole LeNet. Each gradient is computed by the kernels and compared with textbook
loops, finite differences and `jax.grad`; one that differs is reported as WRONG. The run
directory gets `report.html`, `results.json` and `summary.md`; `--resume` keeps what is
measured. Derivations are in `notebooks/01_backpropagation.ipynb`.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import sys

from backprop_batch_norm import BATCH_NORM
from backprop_convolution import CONVOLUTION
from backprop_lenet import LENET
from backprop_pooling import POOLING
from backprop_pooling_images import POOLING_IMAGES
from backprop_sobel import SOBEL_FILTER
from backprop_sobel_steps import FIRST_UPDATES

from cnn_jax.studies import Panel, Size, Study, main

SIZE = Size(train_per_class=50, test_per_class=10, epochs=1, seeds=10)

STUDY = Study(
    name="backpropagation",
    title="Backpropagation by hand",
    panels=(
        Panel(
            name="convolution",
            title="One convolution",
            question="A 4x4 image, a 3x3 filter and a bias: the output, and the "
            "gradient of the loss by the image, the filter and the bias, every number "
            "of them, with stride 1 and with stride 2 and padding.",
            measurements=(CONVOLUTION,),
        ),
        Panel(
            name="sobel",
            title="A filter learns to detect edges",
            question="Gradient descent from a random filter, shown the output of a "
            "Sobel filter: does it become that filter, and what decides how fast?",
            measurements=(SOBEL_FILTER, FIRST_UPDATES),
        ),
        Panel(
            name="pooling",
            title="Through pooling",
            question="Which inputs get the gradient of a pooled output, where windows "
            "overlap and where a maximum is not unique?",
            measurements=(POOLING, POOLING_IMAGES),
        ),
        Panel(
            name="batch_norm",
            title="Through batch norm",
            question="An input changes all outputs of its channel, through the mean "
            "and the variance. The gradient takes three ways; it sums to zero and is "
            "orthogonal to the normalised input, up to epsilon.",
            measurements=(BATCH_NORM,),
        ),
        Panel(
            name="lenet",
            title="A whole LeNet, layer by layer",
            question="One batch forward through LeNet-5, and from the loss back "
            "through every layer by the kernels' own gradients, beside jax.grad of the "
            "whole; then one step of SGD.",
            measurements=(LENET,),
        ),
    ),
    recipe={},
    sizes={
        "smoke": Size(train_per_class=8, test_per_class=2, epochs=1, seeds=2),
        "default": SIZE,
        "results": SIZE,
        "full": SIZE,
    },
)


if __name__ == "__main__":
    sys.exit(main(STUDY, description=__doc__))
