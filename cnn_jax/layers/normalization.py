"""Normalisation: by running statistics, or by each example's own."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool
from cnn_jax.layers.layout import check_layout
from cnn_jax.layers.statistics import StatisticsScope, current_scope
from cnn_jax.layers.types import Activation, Dtype, Initializer


class BatchNorm(nn.Module):
    """Normalises each channel over all other dimensions (Ioffe and Szegedy 2015).

    Parameters: `scale` and `bias` `(c,)`; in the collection `batch_stats`: `mean` and
    `var` `(c,)`, never narrower than float32. All as in `flax.linen.BatchNorm`.

    In training the statistics are the batch's, and the running ones move towards them:

        running = momentum * running + (1 - momentum) * batch

    So `momentum` is the weight of the *old* statistic, as in Flax and Keras. PyTorch
    calls the weight of the *new* one momentum: its 0.1 is 0.9 here. The running
    variance is the biased one, again as in Flax and Keras; PyTorch's is unbiased, and
    so it is here with `unbiased_running_var`.

    Attributes:
      use_running_average: Whether to normalise with the running statistics (inference)
        rather than with the batch's. Given here or in the call, not in both; inside
        `layers.frozen_statistics` the running ones serve whatever it is.
      momentum: The weight of the old statistic, between 0 and 1.
      epsilon: Added to the variance.
      dtype: The dtype of the output; None takes the one that `x`, `scale` and `bias`
        promote to. Statistics are computed in float32 at least, whatever it is.
      param_dtype: The dtype in which the parameters are stored.
      axis_name: A mapped axis (of `shard_map` or `pmap`) over which the statistics are
        averaged; None follows `layers.statistics_scope`, by default no axis. Not needed
        under `jit`, where a sharded batch is one batch.
      axis_index_groups: Groups of indices along `axis_name` to average within.
      unbiased_running_var: Whether the running variance moves towards the batch's
        `n / (n - 1)` times, over the `n` values of a channel. The batch is normalised
        by the biased variance in any case.
      scale_init: Initializer of the scale.
      bias_init: Initializer of the bias.
    """

    use_running_average: bool | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    axis_name: str | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    unbiased_running_var: bool = False
    scale_init: Initializer = nn.initializers.ones_init()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        activation: Activation | None = None,
        pool: MaxPool | None = None,
    ) -> jax.Array:
        """Returns `x` `(..., c)` normalised, in the same shape unless it is pooled.

        Args:
          x: The input.
          use_running_average: As the attribute, where that is not given.
          activation: Applied to the output by the same kernel, which then saves only
            `x` for the backward pass: one of `kernels.activation.fused.FUSED`, or
            None.
          pool: Max-pooling of the result, in training by the same kernel; None for
            none.

        Raises:
          ValueError: If `momentum` is outside [0, 1] or the activation none of those.
        """
        if not 0.0 <= self.momentum <= 1.0:
            raise ValueError(
                f"momentum: got {self.momentum}, expected the weight of the old "
                "statistic, between 0 and 1."
            )
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        check_layout(self, x, "scale", lambda shape: shape[0])
        shape = (x.shape[-1],)
        stored = _at_least_float32(self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stored)
        var = self.variable("batch_stats", "var", jnp.ones, shape, stored)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)

        dtype = dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        if jnp.finfo(x.dtype).bits < jnp.finfo(dtype).bits:
            x = x.astype(dtype)
        computed = _at_least_float32(x.dtype)
        scale, bias = scale.astype(computed), bias.astype(computed)
        scope = current_scope()
        if use_running_average or scope.frozen:
            y = K.batch_norm_inference(
                x,
                mean.value.astype(computed),
                var.value.astype(computed),
                scale,
                bias,
                epsilon=self.epsilon,
                activation=activation,
            )
            if pool is not None:
                y = K.max_pool(
                    y, pool.window, strides=pool.strides, padding=pool.padding
                )
            return y.astype(dtype)

        if self.is_initializing():
            whole = StatisticsScope()
            y, *_ = self._normalized(x, scale, bias, None, activation, pool, whole)
            return y.astype(dtype)
        if self.axis_name is not None:
            scope = StatisticsScope(self.axis_name, self.axis_index_groups)
        shift = mean.value.astype(computed)
        y, batch_mean, batch_var = self._normalized(
            x, scale, bias, shift, activation, pool, scope
        )
        mean.value = self._moved(mean.value, batch_mean)
        if self.unbiased_running_var:
            num_values = x.size // x.shape[-1] // scope.num_groups
            num_values *= _num_devices(scope)
            batch_var = batch_var * (num_values / max(num_values - 1, 1))
        var.value = self._moved(var.value, batch_var)
        return y.astype(dtype)

    def _normalized(
        self,
        x: jax.Array,
        scale: jax.Array,
        bias: jax.Array,
        shift: jax.Array | None,
        activation: Activation | None,
        pool: MaxPool | None,
        scope: StatisticsScope,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns y, and the mean and biased variance that the scope says."""
        batch_norm = functools.partial(
            K.batch_norm,
            epsilon=self.epsilon,
            activation=activation,
            pool=pool,
            shift=shift,
            axis_name=scope.axis_name,
            axis_index_groups=scope.axis_index_groups,
        )
        if scope.num_groups == 1:
            return batch_norm(x, scale, bias)
        parts = (scope.num_groups, -1, *x.shape[1:])
        if x.shape[0] % scope.num_groups:
            raise ValueError(
                f"BatchNorm: got a batch of {x.shape[0]}, expected a multiple of the "
                f"{scope.num_groups} groups with statistics of their own."
            )
        y, mean, var = jax.vmap(batch_norm, (0, None, None))(
            x.reshape(parts), scale, bias
        )
        return y.reshape(-1, *y.shape[2:]), mean.mean(axis=0), var.mean(axis=0)

    def _moved(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        # The stored dtype is kept, so that a training step maps a state to one of
        # the same types.
        batch = batch.astype(running.dtype)
        return self.momentum * running + (1.0 - self.momentum) * batch


class LayerNorm(nn.Module):
    """Normalises the channels at every position (Ba, Kiros and Hinton 2016).

    Parameters: `scale` and `bias` `(c,)`, as in `flax.linen.LayerNorm`.

    Attributes:
      epsilon: Added to the variance.
      dtype: The dtype of the output; None takes the one that `x`, `scale` and `bias`
        promote to. Statistics are computed in float32 at least, whatever it is.
      param_dtype: The dtype in which the parameters are stored.
      use_bias: Whether to add a bias.
      use_scale: Whether to multiply by a scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
    """

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(..., c)` normalised, in the same shape."""
        x, scale, bias, dtype = _operands(self, x)
        return K.layer_norm(x, scale, bias, epsilon=self.epsilon).astype(dtype)


class GroupNorm(nn.Module):
    """Normalises groups of channels within each example (Wu and He 2018).

    Parameters: `scale` and `bias` `(c,)`, as in `flax.linen.GroupNorm`.

    Attributes:
      num_groups: The number of groups of consecutive channels; None with `group_size`.
      group_size: The number of channels in a group; None with `num_groups`.
      epsilon: Added to the variance.
      dtype: The dtype of the output; None takes the one that `x`, `scale` and `bias`
        promote to. Statistics are computed in float32 at least, whatever it is.
      param_dtype: The dtype in which the parameters are stored.
      use_bias: Whether to add a bias.
      use_scale: Whether to multiply by a scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` normalised, in the same shape.

        Raises:
          ValueError: If not exactly one of `num_groups` and `group_size` is given, or
            the channels do not fall into such groups.
        """
        num_groups = self._resolved_num_groups(x.shape[-1])
        x, scale, bias, dtype = _operands(self, x)
        return K.group_norm(
            x, scale, bias, num_groups=num_groups, epsilon=self.epsilon
        ).astype(dtype)

    def _resolved_num_groups(self, channels: int) -> int:
        if (self.num_groups is None) == (self.group_size is None):
            raise ValueError(
                f"GroupNorm: got num_groups {self.num_groups} and group_size "
                f"{self.group_size}, expected one of them and None for the other "
                "(num_groups is 32 unless set)."
            )
        if self.num_groups is not None:
            return self.num_groups
        assert self.group_size is not None  # one of them is given
        if self.group_size <= 0 or channels % self.group_size:
            raise ValueError(
                f"GroupNorm: got group_size {self.group_size} for {channels} channels, "
                "expected a positive integer that divides them."
            )
        return channels // self.group_size


def _operands(
    module: LayerNorm | GroupNorm, x: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None, Dtype]:
    """Declares the parameters and returns what the kernel takes, and y's dtype."""
    for name in ("scale", "bias"):
        check_layout(module, x, name, lambda shape: shape[0])
    shape = (x.shape[-1],)
    scale = bias = None
    if module.use_scale:
        scale = module.param("scale", module.scale_init, shape, module.param_dtype)
    if module.use_bias:
        bias = module.param("bias", module.bias_init, shape, module.param_dtype)
    dtype = dtypes.canonicalize_dtype(x, scale, bias, dtype=module.dtype)
    if jnp.finfo(x.dtype).bits < jnp.finfo(dtype).bits:
        x = x.astype(dtype)
    computed = _at_least_float32(x.dtype)
    scale, bias = (
        vector if vector is None else vector.astype(computed)
        for vector in (scale, bias)
    )
    return x, scale, bias, dtype


def _num_devices(scope: StatisticsScope) -> int:
    """Returns how many devices' values the statistics are of."""
    if scope.axis_index_groups is not None:
        return len(scope.axis_index_groups[0])
    return 1 if scope.axis_name is None else jax.lax.axis_size(scope.axis_name)


def _at_least_float32(dtype: Dtype) -> jnp.dtype:
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)
