"""The fully connected layer."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from cnn_jax import kernels as K
from cnn_jax.layers.layout import check_layout
from cnn_jax.layers.types import Dtype, Initializer


class Dense(nn.Module):
    """Multiplies the last dimension by a learned matrix: `x @ kernel + bias`.

    Parameters: `kernel` `(c, features)` and, with `use_bias`, `bias` `(features,)`:
    those of `flax.linen.Dense`.

    Attributes:
      features: The number of outputs.
      use_bias: Whether to add a bias.
      dtype: The dtype of the computation and of the output; inputs and parameters are
        cast to it. None takes the one that they promote to.
      param_dtype: The dtype in which the parameters are stored.
      kernel_init: Initializer of the matrix.
      bias_init: Initializer of the bias.
    """

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(..., c)` mapped to `(..., features)`."""
        check_layout(self, x, "kernel", lambda shape: shape[0])
        kernel, bias = self._kernel_and_bias(x.shape[-1])
        x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return K.dense(x, kernel, bias)

    def _kernel_and_bias(self, num_inputs: int) -> tuple[jax.Array, jax.Array | None]:
        shape = (num_inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if not self.use_bias:
            return kernel, None
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return kernel, bias


class DenseParameters(Dense):
    """The parameters of a `Dense`, for a kernel that takes those of several layers.

    It has the fields and the variables of a `Dense` and returns them where that would
    multiply.
    """

    @nn.compact
    def __call__(  # type: ignore[override]  # the fields are what it inherits
        self, num_inputs: int
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns `kernel` `(num_inputs, features)` and `bias`, cast to `dtype`."""
        kernel, bias = self._kernel_and_bias(num_inputs)
        kernel, bias = dtypes.promote_dtype(kernel, bias, dtype=self.dtype)
        return kernel, bias
