"""Inputs and filters with their channels first: the error says which axes to move."""

import functools
import random
import re

import jax
import jax.numpy as jnp
import pytest
from helpers.quick import nightly_except

from cnn_jax import kernels as K

MOVE_X = r"the last axis is channels \(NHWC\); x looks like NCHW: jnp.moveaxis\(x, 1, "
MOVE_DY = r"the last axis is channels \(NHWC\); dy looks like NCHW: jnp.moveaxis\(dy, 1"
OIHW = r"\(HWIO\); w looks like OIHW: jnp.moveaxis\(w, \(0, 1\), \(-1, -2\)\)"
IOHW = r"\(HWIO\); w looks like IOHW: jnp.moveaxis\(w, \(0, 1\), \(-2, -1\)\)"


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


IMAGES = array(8, 12, 32, 32)
CHANNELS = array(12)

CASES = {
    "conv": (K.conv, (array(8, 3, 32, 32), array(3, 3, 3, 16)), {}, MOVE_X),
    "conv, depthwise": (
        K.conv,
        (IMAGES, array(3, 3, 1, 12)),
        {"groups": 12},
        MOVE_X,
    ),
    "conv, 1-d": (
        K.conv,
        (array(8, 3, 32), array(3, 3, 16)),
        {},
        r"\(NWC\); x looks like NCW",
    ),
    "conv, 3-d": (
        K.conv,
        (array(8, 3, 6, 7, 8), array(3, 3, 3, 3, 16)),
        {},
        r"\(NDHWC\); x looks like NCDHW",
    ),
    "conv of PyTorch's filter": (
        K.conv,
        (array(8, 32, 32, 3), array(16, 3, 5, 5)),
        {},
        OIHW,
    ),
    "conv of both": (
        K.conv,
        (array(8, 3, 32, 32), array(16, 3, 5, 5)),
        {},
        f"{MOVE_X}.*{OIHW}",
    ),
    "conv of one image": (
        K.conv,
        (array(32, 32, 3), array(3, 3, 3, 16)),
        {},
        r"x looks like one example without a batch axis: x\[None\]",
    ),
    "conv of one image, channels first": (
        K.conv,
        (array(3, 32, 32), array(3, 3, 3, 16)),
        {},
        r"channels first: jnp.moveaxis\(x, 0, -1\)\[None\]",
    ),
    "conv_transpose": (K.conv_transpose, (IMAGES, array(3, 3, 12, 16)), {}, MOVE_X),
    "conv_transpose of PyTorch's filter": (
        K.conv_transpose,
        (array(8, 32, 32, 12), array(12, 16, 3, 3)),
        {},
        IOHW,
    ),
    "conv_general_dilated by default": (
        K.conv_general_dilated,
        (array(8, 32, 32, 3), array(3, 3, 3, 16)),
        {"window_strides": (1, 1), "padding": "SAME"},
        r"they fit dimension_numbers=\('NHWC', 'HWIO', 'NHWC'\)",
    ),
    "conv_general_dilated, channels first": (
        K.conv_general_dilated,
        (array(8, 3, 32, 32), array(16, 3, 3, 3)),
        {
            "window_strides": (1, 1),
            "padding": "SAME",
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
        r"they fit dimension_numbers=\('NCHW', 'OIHW', 'NCHW'\)",
    ),
    "conv_input_grad": (
        K.conv_input_grad,
        (array(8, 16, 32, 32), array(3, 3, 3, 16)),
        {"input_shape": (8, 32, 32, 3)},
        MOVE_DY,
    ),
    "conv_filter_grad": (
        K.conv_filter_grad,
        (array(8, 32, 32, 3), array(8, 16, 32, 32)),
        {"filter_shape": (3, 3, 3, 16)},
        MOVE_DY,
    ),
    "batch_norm": (
        K.batch_norm,
        (IMAGES, CHANNELS, CHANNELS),
        {"epsilon": 1e-5},
        MOVE_X,
    ),
    "batch_norm_inference": (
        K.batch_norm_inference,
        (IMAGES, *[CHANNELS] * 4),
        {"epsilon": 1e-5},
        MOVE_X,
    ),
    "batch_norm of one image": (
        K.batch_norm,
        (array(12, 32, 32), CHANNELS, CHANNELS),
        {"epsilon": 1e-5},
        r"x looks like CHW, one example: jnp.moveaxis\(x, 0, -1\)\[None\]",
    ),
    "layer_norm": (
        K.layer_norm,
        (IMAGES, CHANNELS, CHANNELS),
        {"epsilon": 1e-5},
        MOVE_X,
    ),
    "group_norm": (
        K.group_norm,
        (IMAGES, CHANNELS, CHANNELS),
        {"epsilon": 1e-5, "num_groups": 4},
        MOVE_X,
    ),
    "group_norm without parameters": (
        K.group_norm,
        (IMAGES,),
        {"scale": None, "bias": None, "epsilon": 1e-5, "num_groups": 12},
        MOVE_X,
    ),
    "squeeze_excite": (
        K.squeeze_excite,
        (IMAGES, array(12, 3), array(3), array(3, 12), CHANNELS),
        {},
        MOVE_X,
    ),
    "dense": (K.dense, (IMAGES, array(12, 10)), {}, MOVE_X),
    "dense of PyTorch's weights": (
        K.dense,
        (array(8, 784), array(10, 784)),
        {},
        r"w looks like \(out, in\): w.T",
    ),
    "max_pool": (K.max_pool, (array(8, 3, 32, 32),), {"window": 5}, MOVE_X),
    "avg_pool": (K.avg_pool, (array(8, 3, 28, 28),), {"window": 7}, MOVE_X),
    "max_pool_grad": (
        K.max_pool_grad,
        (array(8, 32, 32, 3), array(8, 3, 16, 16)),
        {"window": 2},
        MOVE_DY,
    ),
    "avg_pool_grad": (
        K.avg_pool_grad,
        (array(8, 3, 16, 16),),
        {"window": 2, "input_shape": (8, 32, 32, 3)},
        MOVE_DY,
    ),
    "softmax_cross_entropy": (
        K.softmax_cross_entropy,
        (IMAGES, jax.ShapeDtypeStruct((8, 32, 32), jnp.int32)),
        {},
        r"logits looks like NCHW: jnp.moveaxis\(logits, 1, -1\)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_says_which_axes_to_move(name):
    kernel, arguments, options, message = CASES[name]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(kernel, **options), *arguments)


@pytest.mark.parametrize(
    ("kernel", "arguments", "options"),
    [
        (K.conv, (array(8, 6, 9, 8), array(3, 3, 2, 16)), {"groups": 3}),
        (K.conv, (array(8, 7, 7, 6), array(16, 2, 3, 3)), {"groups": 3}),
        (
            K.conv_input_grad,
            (array(8, 16, 30, 32), array(3, 3, 3, 16)),
            {"input_shape": (8, 32, 32, 3)},
        ),
        (
            K.conv_filter_grad,
            (array(8, 32, 32, 3), array(9, 16, 32, 32)),
            {"filter_shape": (3, 3, 3, 16)},
        ),
        (K.max_pool_grad, (array(8, 32, 32, 3), array(8, 3, 16, 15)), {"window": 2}),
        (
            K.avg_pool_grad,
            (array(8, 3, 15, 16),),
            {"window": 2, "input_shape": (8, 32, 32, 3)},
        ),
        (K.batch_norm, (IMAGES, CHANNELS, array(11)), {"epsilon": 1e-5}),
        (K.layer_norm, (IMAGES, array(11), CHANNELS), {"epsilon": 1e-5}),
        (
            K.squeeze_excite,
            (IMAGES, array(12, 3), array(3), array(3, 12), array(11)),
            {},
        ),
    ],
)
def test_axes_are_not_moved_where_more_is_wrong(kernel, arguments, options):
    with pytest.raises(ValueError, match=kernel.__name__) as error:
        jax.eval_shape(functools.partial(kernel, **options), *arguments)
    assert "looks like" not in str(error.value)


def test_other_misfits_are_not_blamed_on_the_layout():
    with pytest.raises(ValueError, match=r"channels in the filter\.\n"):
        jax.eval_shape(K.conv, array(8, 9, 10, 5), array(3, 3, 4, 16))
    with pytest.raises(ValueError, match=r"expected \(5,\)\.\n"):
        jax.eval_shape(
            functools.partial(K.batch_norm, epsilon=1e-5),
            array(8, 9, 10, 5),
            CHANNELS,
            CHANNELS,
        )


@pytest.mark.parametrize("shape", [(8, 2, 2, 512), (1, 3, 5, 16), (2, 3, 6, 6)])
def test_a_small_map_may_stay_without_windows(shape):
    pooled = jax.eval_shape(lambda x: K.max_pool(x, (4, 2)), array(*shape))
    assert pooled.shape == (shape[0], 0, shape[2] // 2, shape[3])


SIZES = (2, 3, 4, 6, 8)
HINT = re.compile(
    r"(?P<moved>jnp\.moveaxis\((?P<first>x|w|dy|logits), [^;.]*?\)(\[None\])?)(?=[;.])"
    r"|(?P<batched>x\[None\])|(?P<turned>w\.T)"
    r"|dimension_numbers=(?P<numbers>\(.*?\))"
)


def drawn_shape(draw, rank):
    return tuple(draw.choice(SIZES) for _ in range(rank))


def conv_arguments(draw):
    rank = draw.choice([3, 4, 4, 4, 5])
    arguments = {
        "x": array(*drawn_shape(draw, draw.choice([rank, rank, rank, rank - 1]))),
        "w": array(*drawn_shape(draw, rank)),
        "b": draw.choice([None, array(draw.choice(SIZES))]),
    }
    return arguments, {"groups": draw.choice([1, 1, 1, 2, 3])}


def general_arguments(draw):
    (arguments, options), rank = conv_arguments(draw), 4
    arguments = {name: array(*drawn_shape(draw, rank)) for name in "xw"}
    numbers = draw.choice([None, ("NHWC", "HWIO", "NHWC")])
    fixed = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": numbers}
    return arguments, fixed | {"feature_group_count": options["groups"]}


def gradient_arguments(draw):
    x, w = (list(drawn_shape(draw, 4)) for _ in range(2))
    dy = draw.choice([(x[0], w[3], *x[1:3]), (*x[1:3], w[3], x[0]), (*x[:3], w[3])])
    w[2] = draw.choice([w[2], x[3], x[3]])
    return tuple(x), tuple(w), array(*dy)


def input_grad_arguments(draw):
    x, w, dy = gradient_arguments(draw)
    return {"dy": dy, "w": array(*w)}, {"input_shape": x}


def filter_grad_arguments(draw):
    x, w, dy = gradient_arguments(draw)
    return {"x": array(*x), "dy": dy}, {"filter_shape": w}


def channel_arguments(*names, **options):
    def arguments(draw):
        width = draw.choice(SIZES)
        vectors = {
            name: array(draw.choice([width, width, width, draw.choice(SIZES)]))
            for name in names
        }
        found = {"x": array(*drawn_shape(draw, draw.choice([3, 4]))), **vectors}
        return found, options

    return arguments


def group_norm_arguments(draw):
    found, _ = channel_arguments("scale", "bias")(draw)
    if draw.random() < 0.5:
        shape = (2, draw.choice([3, 4]), *draw.choice([(7, 9), (8, 8), (5, 6)]))
        found = {"x": array(*shape), "scale": None, "bias": None}
        if draw.random() < 0.5:
            found["scale"] = array(shape[-1])
    return found, {"epsilon": 1e-5, "num_groups": draw.choice([1, 2, 3, 4])}


def squeeze_excite_arguments(draw):
    channels, squeezed = (draw.choice(SIZES) for _ in range(2))
    shapes = [(channels, squeezed), (squeezed,), (squeezed, channels), (channels,)]
    names = ["squeeze_w", "squeeze_b", "expand_w", "expand_b"]
    if draw.random() < 0.3:
        shapes[draw.choice(range(4))] = drawn_shape(draw, draw.choice([1, 2]))
    found = {"x": array(*drawn_shape(draw, draw.choice([3, 4])))}
    for name, shape in zip(names, shapes, strict=True):
        found[name] = array(*shape)
    return found, {}


def dense_arguments(draw):
    arguments = {
        "x": array(*drawn_shape(draw, draw.choice([1, 2, 3, 4]))),
        "w": array(*drawn_shape(draw, 2)),
        "b": draw.choice([None, array(draw.choice(SIZES))]),
    }
    return arguments, {}


def pool_arguments(draw):
    sides = tuple(draw.choice([8, 9, 12]) for _ in range(2))
    return {"x": array(2, 3, *sides)}, {"window": draw.choice([2, 5, 7, 10])}


def pool_grad_arguments(draw):
    sides = tuple(draw.choice([8, 9, 12]) for _ in range(2))
    dy = draw.choice([(2, 3, *[side // 4 for side in sides]), drawn_shape(draw, 4)])
    shape = draw.choice([(2, *sides, 3), (2, *sides, 3), (2, 3, *sides)])
    return {"x": array(*shape), "dy": array(*dy)}, {"window": 4}


def avg_pool_grad_arguments(draw):
    found, options = pool_grad_arguments(draw)
    return {"dy": found["dy"]}, options | {"input_shape": found["x"].shape}


def loss_arguments(draw):
    shape = drawn_shape(draw, draw.choice([3, 4]))
    labels = draw.choice([shape[:-1], (shape[0], *shape[2:]), shape[1:]])
    arguments = {"logits": array(*shape)}
    return arguments | {"labels": jax.ShapeDtypeStruct(labels, jnp.int32)}, {}


DRAWN = {
    K.conv: conv_arguments,
    K.conv_transpose: conv_arguments,
    K.conv_general_dilated: general_arguments,
    K.conv_input_grad: input_grad_arguments,
    K.conv_filter_grad: filter_grad_arguments,
    K.batch_norm: channel_arguments("scale", "bias", epsilon=1e-5),
    K.batch_norm_inference: channel_arguments(
        *("mean", "var", "scale", "bias"), epsilon=1e-5
    ),
    K.layer_norm: channel_arguments("scale", "bias", epsilon=1e-5),
    K.group_norm: group_norm_arguments,
    K.squeeze_excite: squeeze_excite_arguments,
    K.dense: dense_arguments,
    K.max_pool: pool_arguments,
    K.avg_pool: pool_arguments,
    K.avg_pool_grad: avg_pool_grad_arguments,
    K.max_pool_grad: pool_grad_arguments,
    K.softmax_cross_entropy: loss_arguments,
}


def with_hints(error, arguments, options):
    """Returns a call as its error says that it might be; None if it says nothing."""
    found = list(HINT.finditer(str(error)))
    for hint in found:
        if hint["numbers"]:
            options = {**options, "dimension_numbers": eval(hint["numbers"])}
            continue
        name = hint["first"] or hint[0][0]
        arguments = {
            **arguments,
            name: jax.eval_shape(
                lambda value, hint=hint, name=name: eval(
                    hint[0], {"jnp": jnp, name: value}
                ),
                arguments[name],
            ),
        }
    return (arguments, options) if found else None


@pytest.mark.parametrize("count", nightly_except([100], [100, 400]))
@pytest.mark.parametrize("kernel", DRAWN, ids=lambda kernel: kernel.__name__)
def test_a_call_as_its_error_says_is_valid(kernel, count):
    """Whatever else is wrong with it, no error sends its reader to the next one."""
    draw, num_hints = random.Random(0), 0
    for _ in range(count):
        arguments, options = DRAWN[kernel](draw)

        def call(arguments, options):
            return jax.eval_shape(
                functools.partial(kernel, **options), *arguments.values()
            )

        try:
            call(arguments, options)
        except ValueError as error:
            repaired = with_hints(error, arguments, options)
            if repaired is not None:
                num_hints += 1
                call(*repaired)
    assert num_hints >= count // 80
