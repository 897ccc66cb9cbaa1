"""Four proofs of every kernel over the table of `cnn_jax.analysis.gradcheck`.

A new row there is proven here; a new kernel also needs its entry in OPERATIONS.
"""

import dataclasses
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES, Case, is_floating
from cnn_jax.analysis.gradcheck import FAST_COMPILATION, draw_like, pull_back
from cnn_jax.kernels import autodiff, textbook


@dataclasses.dataclass(frozen=True)
class Operation:
    """A kernel's textbook gradients and properties, for the proofs.

    Attributes:
      gradients: (arguments, cotangent, options) -> the textbook's gradients by name.
      linear: Sets of arguments in which, the others held, the kernel is linear,
        unless the case has an activation.
      drawn: Arguments of the textbook that replace the kernel's, such as a mask.
    """

    gradients: Callable
    linear: tuple[tuple[str, ...], ...] = ()
    drawn: Callable = lambda arguments, options: arguments


def conv_gradients(a, dy, options):
    gradients = {
        "x": textbook.conv_input_grad(dy, a["w"], input_shape=a["x"].shape, **options),
        "w": textbook.conv_filter_grad(
            a["x"], dy, filter_shape=a["w"].shape, **options
        ),
        "b": textbook.conv_bias_grad(dy),
    }
    return {name: gradients[name] for name in a}


def without(options, name):
    return {key: value for key, value in options.items() if key != name}


# The gradients of the gradients: <y, conv(x, w)> is linear in each of y, x and w, so
# every one of the three functions is the derivative of the other two.
def conv_input_grad_gradients(a, dx, options):
    options = without(options, "input_shape")
    return {
        "dy": textbook.conv(dx, a["w"], **options),
        "w": textbook.conv_filter_grad(
            dx, a["dy"], filter_shape=a["w"].shape, **options
        ),
    }


def conv_filter_grad_gradients(a, dw, options):
    options = without(options, "filter_shape")
    return {
        "x": textbook.conv_input_grad(a["dy"], dw, input_shape=a["x"].shape, **options),
        "dy": textbook.conv(a["x"], dw, **options),
    }


def conv_transpose_gradients(a, dy, options):
    gradients = textbook.conv_transpose_grad(a["x"], a["w"], dy, **options)
    return dict(zip(a, gradients, strict=False))


def conv_general_gradients(a, dy, options):
    gradients = textbook.conv_general_dilated_grad(a["lhs"], a["rhs"], dy, **options)
    return dict(zip(a, gradients, strict=True))


def max_pool_grad_gradients(a, dx, options):
    """Column by column: the gradient of one output position, compared with dx."""
    ddy = np.zeros(a["dy"].shape)
    spatial = tuple(range(1, dx.ndim - 1))
    for o in textbook.positions(ddy.shape[1:-1]):
        unit = np.zeros(ddy.shape)
        unit[:, *o] = 1.0
        ddy[:, *o] = (textbook.max_pool_grad(a["x"], unit, **options) * dx).sum(spatial)
    return {"x": np.zeros(a["x"].shape), "dy": ddy}


def dense_gradients(a, dy, options):
    gradients = textbook.dense_grad(a["x"], a["w"], dy)
    return dict(zip(a, gradients, strict=False))


def batch_norm_gradients(a, cotangents, options):
    gradients = textbook.batch_norm_grad(
        a["x"], a["scale"], *cotangents, bias=a["bias"], **options
    )
    return dict(zip(a, gradients, strict=True))


def batch_norm_inference_gradients(a, dy, options):
    arguments = [a[name] for name in ("x", "mean", "var", "scale")]
    gradients = textbook.batch_norm_inference_grad(
        *arguments, dy, bias=a["bias"], **options
    )
    return dict(zip(a, gradients, strict=True))


def squeeze_excite_gradients(a, dy, options):
    gradients = textbook.squeeze_excite_grad(*a.values(), dy, **options)
    return dict(zip(a, gradients, strict=True))


def group_norm_gradients(gradient_fn):
    def gradients(a, dy, options):
        options = without(without(options, "scale"), "bias")
        dx, dscale, dbias = gradient_fn(a["x"], a.get("scale"), dy, **options)
        gradients = {"x": dx, "scale": dscale, "bias": dbias}
        return {name: gradients[name] for name in a}

    return gradients


def loss_gradients(a, dloss, options):
    gradients = textbook.softmax_cross_entropy_grad(
        a["logits"], a["labels"], dloss, **options
    )
    return dict(zip(a, gradients, strict=True))


def with_mask(kernel, shape_fn):
    """The mask behind a key is what the kernel leaves of an array of ones."""

    def drawn(a, options):
        ones = jnp.ones(shape_fn(a["x"].shape))
        return {"x": a["x"], "mask": kernel(ones, a["key"], **options) != 0}

    return drawn


OPERATIONS = {
    "conv": Operation(conv_gradients, (("x", "b"), ("w", "b"))),
    "conv_input_grad": Operation(conv_input_grad_gradients, (("dy",), ("w",))),
    "conv_filter_grad": Operation(conv_filter_grad_gradients, (("x",), ("dy",))),
    "conv_bias_grad": Operation(
        lambda a, db, o: {"dy": np.broadcast_to(db, a["dy"].shape)}, (("dy",),)
    ),
    "conv_transpose": Operation(conv_transpose_gradients, (("x", "b"), ("w", "b"))),
    "conv_general_dilated": Operation(conv_general_gradients, (("lhs",), ("rhs",))),
    "max_pool": Operation(
        lambda a, dy, o: {"x": textbook.max_pool_grad(a["x"], dy, **o)}
    ),
    "max_pool_grad": Operation(max_pool_grad_gradients, (("dy",),)),
    "avg_pool": Operation(
        lambda a, dy, o: {
            "x": textbook.avg_pool_grad(dy, input_shape=a["x"].shape, **o)
        },
        (("x",),),
    ),
    "avg_pool_grad": Operation(
        lambda a, dx, o: {"dy": textbook.avg_pool(dx, **without(o, "input_shape"))},
        (("dy",),),
    ),
    "global_avg_pool": Operation(
        lambda a, dy, o: {
            "x": textbook.global_avg_pool_grad(dy, input_shape=a["x"].shape)
        },
        (("x",),),
    ),
    "dense": Operation(dense_gradients, (("x", "b"), ("w", "b"))),
    "relu": Operation(lambda a, dy, o: {"x": textbook.relu_grad(a["x"], dy)}),
    "silu": Operation(lambda a, dy, o: {"x": textbook.silu_grad(a["x"], dy)}),
    "sigmoid": Operation(lambda a, dy, o: {"x": textbook.sigmoid_grad(a["x"], dy)}),
    "relu6": Operation(lambda a, dy, o: {"x": textbook.relu6_grad(a["x"], dy)}),
    "hard_sigmoid": Operation(
        lambda a, dy, o: {"x": textbook.hard_sigmoid_grad(a["x"], dy)}
    ),
    "hard_swish": Operation(
        lambda a, dy, o: {"x": textbook.hard_swish_grad(a["x"], dy)}
    ),
    "gelu": Operation(lambda a, dy, o: {"x": textbook.gelu_grad(a["x"], dy, **o)}),
    "layer_norm": Operation(
        group_norm_gradients(textbook.layer_norm_grad), (("scale", "bias"),)
    ),
    "group_norm": Operation(
        group_norm_gradients(textbook.group_norm_grad), (("scale", "bias"),)
    ),
    "batch_norm": Operation(batch_norm_gradients),
    "batch_norm_inference": Operation(
        batch_norm_inference_gradients, (("x", "mean", "bias"), ("scale", "bias"))
    ),
    "dropout": Operation(
        lambda a, dy, o: {"x": textbook.dropout_grad(dy, a["mask"], **o)},
        (("x",),),
        drawn=with_mask(kernels.dropout, lambda shape: shape),
    ),
    "stochastic_depth": Operation(
        lambda a, dy, o: {"x": textbook.stochastic_depth_grad(dy, a["mask"], **o)},
        (("x",),),
        drawn=with_mask(kernels.stochastic_depth, lambda shape: shape[:1]),
    ),
    "spatial_dropout": Operation(
        lambda a, dy, o: {"x": textbook.spatial_dropout_grad(dy, a["mask"], **o)},
        (("x",),),
        drawn=with_mask(kernels.spatial_dropout, lambda shape: (shape[0], shape[-1])),
    ),
    "drop_block": Operation(
        lambda a, dy, o: {"x": textbook.drop_block_grad(dy, a["mask"], **o)},
        (("x",),),
        drawn=with_mask(kernels.drop_block, lambda shape: shape),
    ),
    "softmax_cross_entropy": Operation(loss_gradients),
    "squeeze_excite": Operation(squeeze_excite_gradients),
    "adaptive_avg_pool": Operation(
        lambda a, dy, o: {
            "x": textbook.adaptive_avg_pool_grad(dy, input_shape=a["x"].shape)
        },
        (("x",),),
    ),
    "local_response_norm": Operation(
        lambda a, dy, o: {"x": textbook.local_response_norm_grad(a["x"], dy, **o)}
    ),
}

# Relative to the largest entry of a result. float32: roundings of 2^-24, in sums of a
# hundred terms. bfloat16: a few roundings of 2^-9.
TOLERANCES = {np.float32: 4e-6, jnp.bfloat16: 1e-2}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A case evaluated by the kernel, and by its twin on request, at a random point."""

    case: Case
    arguments: dict
    cotangent: object
    value: object
    gradients: dict
    twin_value: object = None
    twin_gradients: dict | None = None


def evaluate(case, dtype, seed=0, *, twin=True):
    arguments = case.draw(seed, dtype)
    modules = (kernels, autodiff) if twin else (kernels,)
    fns = [getattr(module, case.kernel) for module in modules]
    output = jax.eval_shape(lambda a: case.apply(fns[0], a), arguments)
    cotangent = draw_like(output, seed)
    every = jax.jit(
        lambda a, c: [pull_back(fn, case, a, c) for fn in fns],
        compiler_options=FAST_COMPILATION,
    )
    return Evaluation(case, arguments, cotangent, *sum(every(arguments, cotangent), ()))


def evaluate_by_textbook(case, arguments, cotangent):
    """The textbook's value and gradients, in float64, at the same point."""
    operation = OPERATIONS[case.kernel]
    drawn = operation.drawn(arguments, case.options)
    drawn = {name: to_numpy(value) for name, value in drawn.items()}
    cotangent = jax.tree.map(to_numpy, cotangent)
    value = getattr(textbook, case.kernel)(*drawn.values(), **case.options)
    return value, operation.gradients(drawn, cotangent, case.options)


def to_numpy(leaf):
    return np.asarray(
        leaf, np.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None
    )


def assert_close(actual, reference, tolerance):
    """Compares leaf by leaf, relative to the reference leaf's largest entry."""
    actual, reference = jax.tree.map(to_numpy, (actual, reference))
    chex.assert_trees_all_equal_shapes(actual, reference)
    for leaf in jax.tree.leaves(actual):
        assert not np.isnan(leaf).any()

    def scale(leaf, like):
        size = np.abs(like[np.isfinite(like)]).max(initial=0.0)
        return leaf / size if size > 0.0 else leaf

    chex.assert_trees_all_close(
        jax.tree.map(scale, actual, reference),
        jax.tree.map(scale, reference, reference),
        rtol=0.0,
        atol=tolerance,
    )


@pytest.fixture(scope="module", params=CASES, ids=str)
def evaluation(request):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        return evaluate(request.param, np.float64)


def test_every_public_kernel_is_in_the_table():
    tabled = {case.kernel for case in CASES}
    not_kernels = {"autodiff", "textbook", "target_platform"}
    assert set(kernels.__all__) - not_kernels == tabled == set(OPERATIONS)
    assert set(autodiff.__all__) == tabled


def test_agrees_with_the_textbook(evaluation, x64):
    value, gradients = evaluate_by_textbook(
        evaluation.case, evaluation.arguments, evaluation.cotangent
    )
    assert_close(evaluation.value, value, 1e-12)
    for name, gradient in evaluation.gradients.items():
        assert_close(gradient, gradients[name], 1e-12)


def test_vjp_agrees_with_the_twins(evaluation, x64):
    chex.assert_trees_all_equal_shapes_and_dtypes(
        (evaluation.value, evaluation.gradients),
        (evaluation.twin_value, evaluation.twin_gradients),
    )
    assert_close(evaluation.value, evaluation.twin_value, 1e-12)
    assert_close(evaluation.gradients, evaluation.twin_gradients, 1e-12)


def test_backward_pass_is_the_adjoint_of_the_forward_pass(evaluation):
    linear = OPERATIONS[evaluation.case.kernel].linear
    if not linear or "activation" in evaluation.case.options:
        pytest.skip(f"{evaluation.case} is linear in no argument")
    linear = [
        names
        for names in OPERATIONS[evaluation.case.kernel].linear
        if not evaluation.arguments.keys().isdisjoint(names)
    ]
    if not linear:
        pytest.skip(f"{evaluation.case.kernel} is linear in no argument")
    # With y = A x, the identity <A x, c> = <x, A* c> holds the value against its own
    # gradients, and needs no reference.
    forward = np.vdot(evaluation.value, evaluation.cotangent)
    size = np.linalg.norm(evaluation.value) * np.linalg.norm(evaluation.cotangent)
    for names in linear:
        backward = sum(
            np.vdot(evaluation.arguments[name], evaluation.gradients[name])
            for name in names
            if name in evaluation.arguments
        )
        assert math.isfinite(backward)
        assert abs(forward - backward) <= 1e-13 * size


# Finite differences of second order are slow: one row for each kernel, and one for each
# way in which a convolution's or a pooling's geometry enters its gradient.
SMALL_GEOMETRY = (
    "stride 2, same, odd",
    "2 groups, stride 2",
    "dilated",
    "1-d, stride 2",
)
SMALL_CASES = [
    case
    for case in CASES
    if not case.has_corners
    and (
        case.kernel not in [earlier.kernel for earlier in CASES[: CASES.index(case)]]
        or (case.kernel in ("conv", "max_pool") and case.label in SMALL_GEOMETRY)
        or "activation" in case.options
        or case.kernel == "gelu"
    )
]


# One of each kind by default, all in CI: a second derivative compiles for seconds.
SECOND_ORDER = [
    case
    if case.kernel in ("conv", "max_pool", "batch_norm", "dense", "silu")
    else pytest.param(case, marks=pytest.mark.slow)
    for case in SMALL_CASES
]


@pytest.mark.parametrize("case", SECOND_ORDER, ids=str)
def test_second_order_agrees_with_finite_differences(case, x64, light_compilation):
    arguments = case.draw(0)
    floating = {name: a for name, a in arguments.items() if is_floating(a)}
    kernel = getattr(kernels, case.kernel)
    output = jax.eval_shape(lambda a: case.apply(kernel, a), arguments)

    # The gradient as the function: of the value itself it is proven above, and far
    # better than by finite differences.
    @jax.jit
    def gradients(floating, cotangent):
        return pull_back(kernel, case, arguments | floating, cotangent)[1]

    point = floating, draw_like(output, 1)
    check_grads(gradients, point, order=1, modes=("rev",))


PRECISION_CASES = [
    case
    for case in CASES
    if [c.kernel for c in CASES[: CASES.index(case)]].count(case.kernel) < 2
    or "groups" in case.options
    or "activation" in case.options
]


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(np.float32, id="f32", marks=pytest.mark.slow),
        pytest.param(jnp.bfloat16, id="bf16"),
    ],
)
@pytest.mark.parametrize("case", PRECISION_CASES, ids=str)
def test_low_precision_stays_near_float64(case, dtype):
    evaluated = evaluate(case, dtype, twin=False)
    value, gradients = evaluate_by_textbook(
        case, evaluated.arguments, evaluated.cotangent
    )
    assert_close(evaluated.value, value, TOLERANCES[dtype])
    for name, gradient in evaluated.gradients.items():
        assert gradient.dtype == evaluated.arguments[name].dtype
        assert_close(gradient, gradients[name], TOLERANCES[dtype])
