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
from cnn_jax.kernels.platforms import tpu, xla


@pytest.mark.parametrize("label", CONVOLUTIONS)
@pytest.mark.parametrize("platform", [xla, tpu], ids=["xla", "tpu"])
def test_convolution_and_its_gradients(platform, label, x64, monkeypatch):
    monkeypatch.setattr(tpu, "_LEAST_IMAGES", 1)
    x_shape, w_shape, options = CONVOLUTIONS[label]
    geometry = {"padding": "SAME", **options}
    groups = geometry.pop("groups", 1)
    window = Window.resolve(x_shape[1:-1], w_shape[:-2], **geometry)
    y_shape = (x_shape[0], *window.output_sizes, w_shape[-1])
    x, w, dy = draw_like([jnp.ones(shape) for shape in (x_shape, w_shape, y_shape)], 0)

    def evaluate(x, w, dy):
        return (
            platform.conv(x, w, window, groups, None),
            platform.conv_input_grad(dy, w, window, groups, None),
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


@pytest.mark.parametrize(
    ("channels", "strides", "groups"), [(32, 1, 1), (33, 1, 33), (32, 2, 32)]
)
def test_a_narrow_depthwise_convolution_is_dense_on_a_tpu(channels, strides, groups):
    window = Window.resolve((8, 8), (3, 3), strides=strides, padding="SAME")
    x, w = jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, 1, channels))
    program = jax.make_jaxpr(tpu.conv, static_argnums=(2, 3, 4))(
        x, w, window, channels, None
    )
    assert f"feature_group_count={groups}" in str(program)


@pytest.mark.parametrize(("images", "groups"), [(31, 32), (32, 1)])
def test_the_input_gradient_of_few_images_is_not(images, groups):
    window = Window.resolve((8, 8), (3, 3), padding="SAME")
    dy, w = jnp.ones((images, 8, 8, 32)), jnp.ones((3, 3, 1, 32))
    program = jax.make_jaxpr(tpu.conv_input_grad, static_argnums=(2, 3, 4))(
        dy, w, window, 32, None
    )
    assert f"feature_group_count={groups}" in str(program)


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
