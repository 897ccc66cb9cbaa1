"""The forms of the other platforms, which a CPU's kernels do not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.analysis.cases.conv import CONVOLUTIONS
from cnn_jax.analysis.cases.conv_transpose import TRANSPOSED_CONVOLUTIONS
from cnn_jax.analysis.gradcheck import FAST_COMPILATION, draw_like
from cnn_jax.geometry import Window
from cnn_jax.kernels import textbook
from cnn_jax.kernels.platforms import xla


@pytest.mark.parametrize("label", CONVOLUTIONS)
def test_convolution_and_its_gradients(label, x64):
    x_shape, w_shape, options = CONVOLUTIONS[label]
    geometry = {"padding": "SAME", **options}
    groups = geometry.pop("groups", 1)
    window = Window.resolve(x_shape[1:-1], w_shape[:-2], **geometry)
    y_shape = (x_shape[0], *window.output_sizes, w_shape[-1])
    x, w, dy = draw_like([jnp.ones(shape) for shape in (x_shape, w_shape, y_shape)], 0)

    def evaluate(x, w, dy):
        return (
            xla.conv(x, w, window, groups, None),
            xla.conv_input_grad(dy, w, window, groups, None),
            xla.conv_filter_grad(x, dy, window, groups, None),
        )

    actual = jax.jit(evaluate, compiler_options=FAST_COMPILATION)(x, w, dy)
    expected = (
        textbook.conv(x, w, **options),
        textbook.conv_input_grad(dy, w, input_shape=x_shape, **options),
        textbook.conv_filter_grad(x, dy, filter_shape=w_shape, **options),
    )
    for got, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(
            got, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max()
        )


@pytest.mark.parametrize("label", TRANSPOSED_CONVOLUTIONS)
def test_transposed_convolution(label, x64):
    x_shape, w_shape, options = TRANSPOSED_CONVOLUTIONS[label]
    geometry = {key: options[key] for key in options if key != "groups"}
    window = Window.resolve_transposed(x_shape[1:-1], w_shape[:-2], **geometry)
    x, w = draw_like([jnp.ones(shape) for shape in (x_shape, w_shape)], 0)

    def evaluate(x, w):
        return xla.conv_transpose(x, w, window, options.get("groups", 1), None)

    actual = jax.jit(evaluate, compiler_options=FAST_COMPILATION)(x, w)
    expected = textbook.conv_transpose(x, w, **options)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max()
    )
