"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998).

Small filters shared over the image, subsampling between them and a classifier on top
are trained as one by gradient descent. Features are thus learned rather than designed,
and shifts of the input cost little. The network reads a 32x32 grey image, larger than
the digits in it, so that strokes may reach the middle of the last receptive fields.

It read bank cheques in production and set the pattern, convolution, pooling, fully
connected, that every later network here varies.

As in the paper: the sizes (6, 16, 120, 84), 5x5 filters without padding, tanh, and
average pooling. As is today's practice: S2 and S4 have no trained coefficient and no
squashing of their own, every map of C3 sees all maps of S2 (the paper's table leaves
some out), tanh is not stretched to 1.7159 tanh(2a/3), and a linear layer with softmax
takes the place of the radial basis functions.

    model     parameters     MACs/M   top-1/%
    lenet5        61,706        0.4     99.05

Top-1 is the paper's, on MNIST (0.95 % error without distortions, figure 9). Filters
start from LeCun's normal distribution; there is no normalisation. Any image of at
least 32x32 is accepted: where C5 finds several places, they are averaged.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import Conv, Dense, apply_stage
from cnn_jax.layers.types import Activation, Dtype, Dtypes
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class LeNet5(ImageNetwork):
    """The network; its layers bear the paper's names.

    Attributes:
      num_classes: The number of logits, or 0 for the 84 features.
      activation: The squashing function.
      remat: Whether the backward pass recomputes what is inside the stages.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    num_classes: int = 10
    activation: Activation = jnp.tanh
    remat: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> Output:
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images of at least 32x32.
          train: Accepted for the common call; nothing here depends on it.
          endpoints: Whether to return `(logits, {"stage1", "stage2", "stage3",
            "features"})`.
        """
        del train
        check_images(self, x, minimum_size=32)
        dtypes: Dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, kernel_size=5, padding="VALID", **dtypes)
        dense = functools.partial(Dense, **dtypes)
        named = {}

        def squash_and_pool(x):
            return K.avg_pool(self.activation(x), 2)

        stages = (
            (conv(6, name="c1"), squash_and_pool),
            (conv(16, name="c3"), squash_and_pool),
            (conv(120, name="c5"), self.activation),
        )
        for stage, (layer, end) in enumerate(stages, start=1):
            x = apply_stage(self, [layer], end, x, remat=self.remat)
            named[f"stage{stage}"] = x
        x = K.global_avg_pool(x)
        x = named["features"] = self.activation(dense(84, name="f6")(x))
        if self.num_classes:
            x = dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="lenet",
        module=LeNet5,
        paper="LeCun et al., Gradient-Based Learning Applied to Document Recognition",
        year=1998,
        url="http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf",
        top1_source="MNIST; the paper's figure 9, without distortions (0.95 % error)",
        num_classes=10,
        input_shape=(32, 32, 1),
        mean=(0.1307,),
        std=(0.3081,),
        variants={"lenet5": Variant(parameters=61_706, macs=416_520, top1=99.05)},
    ),
)
