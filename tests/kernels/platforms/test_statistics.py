"""Batch statistics in one pass: what other platforms run, here on a CPU."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from cnn_jax import kernels, sharding
from cnn_jax.analysis.cases import CASES
from cnn_jax.analysis.gradcheck import draw_like, pull_back
from cnn_jax.kernels import autodiff, textbook
from cnn_jax.kernels.platforms import statistics

EPSILON = 1e-5
BATCH_NORM_CASES = [case for case in CASES if case.kernel == "batch_norm"]

# Many and few examples, with and without positions, counts that are no powers of two.
SHAPES = [
    (64, 14, 14, 32),
    (256, 7, 7, 32),
    (100, 15, 10, 16),
    (2, 56, 56, 16),
    (1, 20_000, 8),
    (5000, 32),
    (60, 64),
]


def one_pass(x, shift=None):
    return jax.jit(lambda x, s: statistics.one_pass(x, s, None, None))(x, shift)


def draw_channels(generator, shape, mean):
    """Returns float32 numbers of deviation 1, and their exact means and variances."""
    x = (generator.standard_normal(shape) + mean).astype(np.float32)
    wide, axes = x.astype(np.float64), tuple(range(len(shape) - 1))
    return x, wide.mean(axes), wide.var(axes)


@pytest.mark.parametrize("mean", [0.0, 30.0, 1e2, -1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_exact_near_the_mean(shape, mean, generator):
    x, exact_mean, exact_var = draw_channels(generator, shape, mean)
    distance = generator.uniform(-10, 10, shape[-1])
    distance[:2] = -10, 10
    shift = jnp.asarray(mean + distance, jnp.float32)
    found_mean, found_var = one_pass(x, shift)
    np.testing.assert_allclose(found_var, exact_var, rtol=1e-5)
    np.testing.assert_allclose(found_mean, exact_mean, rtol=2e-7, atol=3e-6)


def flax_variance(x):
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0, epsilon=EPSILON)
    variables = {
        "params": {"scale": jnp.ones(x.shape[-1]), "bias": jnp.zeros(x.shape[-1])},
        "batch_stats": {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])},
    }
    _, updates = norm.apply(variables, x, mutable=["batch_stats"])
    return updates["batch_stats"]["var"]


@pytest.mark.parametrize("mean", [1.0, 30.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_cold_start_is_no_worse_than_stock_flax(shape, mean, generator):
    x, _, exact = draw_channels(generator, shape, mean)
    stock = np.abs(jax.jit(flax_variance)(x) - exact).max()
    for shift in (None, jnp.zeros(shape[-1])):
        _, var = one_pass(x, shift)
        assert np.min(var) >= 0
        # A few roundings apart at most, where neither loses anything.
        assert np.abs(var - exact).max() <= max(stock, 5e-7)


@pytest.fixture
def one_pass_statistics():
    """Traces kernels as for another platform than a CPU."""
    with kernels.target_platform("tpu"):
        yield


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1, -3e4])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_constant_channel_has_finite_gradients(value, dtype, one_pass_statistics):
    x = jnp.full((6, 5, 5, 3), value, dtype)
    shift = jnp.asarray([value, 0.0, value + 7], jnp.float32)

    def loss(x):
        y, _, var = kernels.batch_norm(
            x, jnp.ones(3), jnp.ones(3), epsilon=EPSILON, shift=shift
        )
        return jnp.sum(jnp.sin(y.astype(jnp.float32))) + jnp.sum(var), var

    gradient, var = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert np.isfinite(gradient).all()
    assert np.min(var) >= 0


@pytest.mark.parametrize("case", BATCH_NORM_CASES, ids=str)
@pytest.mark.parametrize("with_shift", [False, True])
def test_proofs_hold(case, with_shift, proofs, x64, one_pass_statistics):
    plain = case
    if with_shift:
        shift = draw_like(case.draw(0)["scale"], 3)
        case = dataclasses.replace(case, options={**case.options, "shift": shift})
    evaluation = proofs.evaluate(case, np.float64)
    value, gradients = proofs.evaluate_by_textbook(
        plain, evaluation.arguments, evaluation.cotangent
    )
    proofs.assert_close(evaluation.value, value, 1e-12)
    proofs.assert_close(evaluation.gradients, gradients, 1e-12)
    proofs.assert_close(evaluation.value, evaluation.twin_value, 1e-12)
    proofs.assert_close(evaluation.gradients, evaluation.twin_gradients, 1e-12)


@pytest.mark.parametrize("name", ["images", "rows"])
def test_second_order_agrees_with_finite_differences(
    name, x64, one_pass_statistics, light_compilation
):
    (case,) = (case for case in BATCH_NORM_CASES if case.label == name)
    arguments = case.draw(0)
    options = {**case.options, "shift": draw_like(arguments["scale"], 3)}
    case = dataclasses.replace(case, options=options)
    output = jax.eval_shape(lambda a: case.apply(kernels.batch_norm, a), arguments)

    @jax.jit
    def gradients(arguments, cotangent):
        return pull_back(kernels.batch_norm, case, arguments, cotangent)[1]

    check_grads(gradients, (arguments, draw_like(output, 1)), order=1, modes=("rev",))


def normalise(x, shift, **options):
    ones = jnp.ones(x.shape[-1], x.dtype)
    return kernels.batch_norm(x, ones, ones, epsilon=EPSILON, shift=shift, **options)


@pytest.fixture(params=["two passes", "one pass"])
def form(request):
    if request.param == "one pass":
        request.getfixturevalue("one_pass_statistics")


def test_nothing_depends_on_the_shift(form, x64, generator):
    x = jnp.asarray(generator.standard_normal((6, 4, 3)))
    shift = jnp.asarray(generator.standard_normal(3))
    at_none, at_shift = normalise(x, None), normalise(x, shift)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-13), at_none, at_shift
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-13),
        at_none,
        textbook.batch_norm(x, np.ones(3), np.ones(3), epsilon=EPSILON, shift=shift),
    )

    def loss(x, shift):
        return sum(jnp.sum(jnp.sin(output)) for output in normalise(x, shift))

    _, gradient = jax.grad(loss, (0, 1))(x, shift)
    np.testing.assert_array_equal(gradient, np.zeros(3))
    # Of the gradient, too.
    mixed = jax.grad(lambda x, s: jnp.sum(jnp.sin(jax.grad(loss)(x, s))), 1)(x, shift)
    np.testing.assert_array_equal(mixed, np.zeros(3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_infinite_channel_has_an_infinite_mean(dtype, form):
    x = jnp.asarray([[1.0, np.inf, np.nan], [3.0, 1.0, 1.0]], dtype)
    _, mean, var = normalise(x, jnp.zeros(3, jnp.float32))
    np.testing.assert_array_equal(mean, [2.0, np.inf, np.nan])
    np.testing.assert_array_equal(var, [1.0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (jnp.zeros(2), r"got shift \(2,\), expected \(3,\)"),
        (jnp.zeros(3, jnp.bfloat16), "got shift bfloat16 for x float32"),
    ],
)
def test_refuses_a_shift_that_does_not_fit(shift, message):
    with pytest.raises(ValueError, match=message):
        normalise(jnp.ones((4, 3)), shift)


@pytest.fixture
def mesh():
    return sharding.make_mesh(specification="data=8")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_devices_share_statistics_in_one_message(dtype, mesh, one_pass_statistics):
    x = jnp.zeros((16, 4, 4, 3), dtype)

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), P()), out_specs=(P(), P())
    )
    def of_all(x, shift):
        ones = jnp.ones(3)
        return kernels.batch_norm(
            x, ones, ones, epsilon=EPSILON, shift=shift, axis_name="data"
        )[1:]

    text = of_all.lower(x, jnp.zeros(3)).as_text()
    assert len(re.findall(r"\ball_reduce\b", text)) == 1


def test_a_sharded_batch_is_one_batch_in_one_message(mesh, one_pass_statistics):
    x = jax.ShapeDtypeStruct(
        (16, 4, 4, 3), jnp.float32, sharding=NamedSharding(mesh, P("data"))
    )
    compiled = jax.jit(lambda x: normalise(x, jnp.zeros(3))[1:]).lower(x).compile()
    collectives = re.findall(r"= .* (all-\w+|collective-\w+)\(", compiled.as_text())
    assert collectives == ["all-reduce"]


def test_devices_and_their_groups_merge_exactly(mesh, x64, form, generator):
    """As over the whole batch."""
    x = jnp.asarray(generator.standard_normal((16, 5, 3)) + 3)
    shift = jnp.full(3, 2.5)

    def sharded(x, shift, **options):
        return jax.shard_map(
            lambda x, s: normalise(x, s, **options),
            mesh=mesh,
            in_specs=(P("data"), P()),
            out_specs=(P("data"), P(), P()),
        )(x, shift)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-13)
    jax.tree.map(close, sharded(x, shift, axis_name="data"), normalise(x, None))

    parts, groups = x.reshape(8, 2, 5, 3), [[0, 2, 4, 6], [1, 3, 5, 7]]
    _, mean, var = jax.pmap(
        functools.partial(
            normalise, shift=shift, axis_name="i", axis_index_groups=groups
        ),
        axis_name="i",
    )(parts)
    for group in groups:
        _, *whole = normalise(parts[np.asarray(group)].reshape(8, 5, 3), None)
        for member in group:
            jax.tree.map(close, [mean[member], var[member]], whole)


def test_float32_keeps_its_digits_over_devices(mesh, generator):
    x, _, exact = draw_channels(generator, (64, 9, 9, 16), 1e4)
    shift = jnp.full(16, 1e4 + 10, jnp.float32)
    _, var = jax.jit(
        jax.shard_map(
            lambda x, s: statistics.one_pass(x, s, "data", None),
            mesh=mesh,
            in_specs=(P("data"), P()),
            out_specs=P(),
        )
    )(x, shift)
    np.testing.assert_allclose(var, exact, rtol=1e-5)


def test_the_twin_is_what_flax_computes(generator):
    x, *_ = draw_channels(generator, (16, 5, 5, 8), 30.0)
    ones = jnp.ones(8)
    _, _, var = jax.jit(functools.partial(autodiff.batch_norm, epsilon=EPSILON))(
        x, ones, ones
    )
    np.testing.assert_allclose(var, jax.jit(flax_variance)(x), rtol=1e-5)
