"""Kernels under JAX's transformations, beyond one case for each.

Every kernel's first case goes through all transformations in
`tests/kernels/test_transformations_page.py`; here are the convolution's other forms on
sharded examples, and what holds for a mapped axis alone.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnn_jax import kernels
from cnn_jax.analysis.gradcheck import draw_like
from cnn_jax.geometry import MaxPool
from cnn_jax.kernels import autodiff

pytestmark = pytest.mark.usefixtures("x64", "light_compilation")

NUM_DEVICES = 8


def close(actual, reference):
    chex.assert_trees_all_close(actual, reference, rtol=1e-9, atol=1e-11, strict=True)


def test_vmap_over_filters_alone():
    x, w = jnp.ones((2, 5, 5, 2)), draw_like(jnp.ones((3, 3, 3, 2, 4)), 0)

    def loss(fn, w):
        return jnp.sum(jnp.sin(fn(x, w)))

    for transform in (lambda f: f, jax.grad):
        actual, reference = (
            jax.vmap(transform(functools.partial(loss, fn)))(w)
            for fn in (kernels.conv, autodiff.conv)
        )
        close(actual, reference)


def test_twins_have_forward_mode_and_kernels_say_that_they_have_none():
    x = jnp.ones((1, 4, 4, 2))
    jax.jvp(autodiff.relu, (x,), (x,))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(kernels.relu, (x,), (x,))


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((NUM_DEVICES,), ("batch",), axis_types=(AxisType.Auto,))


# Sharded arguments, replicated arguments, options. Labels begin with the kernel.
SHARDED = {
    "conv": (("x", (16, 6, 5, 3)), ("w", (3, 3, 3, 4)), ("b", (4,)), {"strides": 2}),
    "conv, depthwise": (
        ("x", (8, 6, 5, 4)),
        ("w", (3, 3, 1, 4)),
        ("b", (4,)),
        {"groups": 4},
    ),
    "conv, grouped": (("x", (8, 5, 5, 4)), ("w", (3, 3, 2, 6)), {"groups": 2}),
    "conv, pointwise": (("x", (8, 5, 4, 4)), ("w", (1, 1, 4, 6)), {}),
    "conv, 1-d": (("x", (8, 9, 2)), ("w", (3, 2, 3)), {"padding": "VALID"}),
    "conv_transpose, strided, depthwise": (
        ("x", (8, 3, 4, 2)),
        ("w", (3, 2, 1, 4)),
        {"strides": 2, "groups": 2},
    ),
    "conv_general_dilated, spread": (
        ("x", (8, 3, 4, 3)),
        ("w", (3, 3, 3, 4)),
        {
            "window_strides": (2, 1),
            "padding": ((1, 1), (2, 0)),
            "lhs_dilation": (3, 2),
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
    ),
}


def sharded_setup(label):
    *arguments, options = SHARDED[label]
    fn = functools.partial(getattr(kernels, label.split(",")[0]), **options)
    twin = functools.partial(getattr(autodiff, label.split(",")[0]), **options)
    values = draw_like([jnp.ones(shape) for _, shape in arguments], 0)
    specs = tuple(P("batch") if name == "x" else P() for name, _ in arguments)
    return fn, twin, values, specs


@pytest.mark.parametrize("label", SHARDED)
def test_shard_map_with_sharded_batch_and_replicated_parameters(label, mesh):
    fn, twin, values, specs = sharded_setup(label)
    sharded = jax.shard_map(
        fn, mesh=mesh, in_specs=specs, out_specs=P("batch"), check_vma=True
    )

    def loss(fn, values):
        return jnp.sum(jnp.sin(fn(*values)))

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=True
    )
    def gradients_inside(*values):
        # The replicated parameters' gradients arrive summed over the devices.
        return jax.grad(functools.partial(loss, fn))(values)

    @jax.jit
    def run(values):
        return (
            sharded(*values),
            jax.grad(functools.partial(loss, sharded))(values),
            list(gradients_inside(*values)),
            twin(*values),
            jax.grad(functools.partial(loss, twin))(values),
        )

    value, outside, inside, twin_value, reference = run(values)
    close(value, twin_value)
    close(outside, reference)
    close(inside, reference)


@pytest.mark.parametrize("label", ["conv", "conv, depthwise"])
def test_jit_over_a_sharded_batch(label, mesh):
    fn, twin, values, specs = sharded_setup(label)
    shardings = [NamedSharding(mesh, spec) for spec in specs]

    def value_and_gradients(fn, values):
        return fn(*values), jax.grad(lambda v: jnp.sum(jnp.sin(fn(*v))))(values)

    run = jax.jit(functools.partial(value_and_gradients, fn), in_shardings=(shardings,))
    value, gradients = run(jax.device_put(values, shardings))
    assert value.sharding.is_equivalent_to(shardings[0], value.ndim)
    close(
        (value, gradients),
        jax.jit(functools.partial(value_and_gradients, twin))(values),
    )


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("varies", ["x", "dy"])
def test_max_pool_grad_takes_one_operand_sharded_and_one_replicated(
    mesh, varies, target
):
    with kernels.target_platform(target):
        gradient = functools.partial(kernels.max_pool_grad, window=2)
        x, dy = draw_like([jnp.ones((8, 4, 4, 2)), jnp.ones((8, 2, 2, 2))], 0)
        operands = {"x": x[:1], "dy": dy[:1], varies: {"x": x, "dy": dy}[varies]}
        sharded = jax.shard_map(
            gradient,
            mesh=mesh,
            in_specs=tuple(P("batch") if n == varies else P() for n in operands),
            out_specs=P("batch"),
        )
        repeated = (jnp.broadcast_to(o, (8, *o.shape[1:])) for o in operands.values())
        close(jax.jit(sharded)(*operands.values()), gradient(*repeated))


def batch_norm_loss(fn, x, scale, bias, weights):
    y, mean, var = fn(x, scale, bias)
    return (
        jnp.sum(jnp.sin(y) * weights),
        jnp.sum(jnp.sin(mean)) + jnp.sum(jnp.cos(var)),
    )


@pytest.fixture
def batch_norm_inputs():
    return draw_like(
        [jnp.ones((16, 3, 2)), jnp.ones(2), jnp.ones(2), jnp.ones((16, 3, 2))], 0
    )


def total_loss(fn, *inputs):
    return sum(batch_norm_loss(fn, *inputs))


def test_batch_norm_shares_statistics_over_an_axis(mesh, batch_norm_inputs):
    """Sharded with `axis_name`, it equals batch norm over the whole batch."""
    sharded = jax.shard_map(
        functools.partial(kernels.batch_norm, epsilon=1e-3, axis_name="batch"),
        mesh=mesh,
        in_specs=(P("batch"), P(), P()),
        out_specs=(P("batch"), P(), P()),
        check_vma=True,
    )
    whole = functools.partial(autodiff.batch_norm, epsilon=1e-3)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("batch"), P(), P(), P("batch")),
        out_specs=(P("batch"), P(), P()),
        check_vma=True,
    )
    def gradients_inside(*inputs):
        def loss(*inputs):
            fn = functools.partial(kernels.batch_norm, epsilon=1e-3, axis_name="batch")
            of_outputs, of_statistics = batch_norm_loss(fn, *inputs)
            # The statistics are every device's own: count them once.
            return jax.lax.psum(of_outputs, "batch") + of_statistics

        return jax.grad(loss, (0, 1, 2))(*inputs)

    @jax.jit
    def run(*inputs):
        return (
            sharded(*inputs[:3]),
            jax.grad(total_loss, (1, 2, 3))(sharded, *inputs),
            gradients_inside(*inputs),
            whole(*inputs[:3]),
            jax.grad(total_loss, (1, 2, 3))(whole, *inputs),
        )

    value, outside, inside, whole_value, reference = run(*batch_norm_inputs)
    close(value, whole_value)
    close(outside, reference)
    close(inside, reference)


def test_batch_norm_without_an_axis_stays_local(mesh, batch_norm_inputs):
    x, scale, bias, weights = batch_norm_inputs
    local = jax.shard_map(
        functools.partial(kernels.batch_norm, epsilon=1e-3),
        mesh=mesh,
        in_specs=(P("batch"), P(), P()),
        out_specs=(P("batch"), P("batch"), P("batch")),
        check_vma=True,
    )

    def by_pieces(x, scale, bias):
        pieces = [
            autodiff.batch_norm(piece, scale, bias, epsilon=1e-3)
            for piece in jnp.split(x, NUM_DEVICES)
        ]
        return [jnp.concatenate(parts) for parts in zip(*pieces, strict=True)]

    @jax.jit
    def run(*inputs):
        return [
            jax.value_and_grad(total_loss, (1, 2, 3))(fn, *inputs)
            for fn in (local, by_pieces)
        ]

    close(*run(x, scale, bias, weights))


def map_over_devices(kind, fn, mesh):
    """Maps `fn` over the first axis of its arguments, axis name "batch"."""
    if kind == "vmap":
        return jax.vmap(fn, axis_name="batch")
    if kind == "pmap":
        return jax.pmap(fn, axis_name="batch")

    def on_each_device(*arguments):
        results = fn(*(argument[0] for argument in arguments))
        return jax.tree.map(lambda leaf: leaf[None], results)

    return jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=P("batch"),
        out_specs=P("batch"),
        check_vma=kind == "shard_map",
    )


# JAX supports groups under pmap and in shard_map's unchecked mode only.
@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("vmap", None),
        ("pmap", None),
        ("shard_map", None),
        ("unchecked shard_map", None),
        ("pmap", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("unchecked shard_map", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_batch_norm_gradients_inside_a_mapped_axis(kind, groups, mesh):
    x, weights = draw_like([jnp.ones((NUM_DEVICES, 3, 2, 2))] * 2, 0)
    scale, bias = draw_like([jnp.ones((NUM_DEVICES, 2))] * 2, 1)

    def mapped(module):
        fn = functools.partial(
            module.batch_norm, epsilon=1e-3, axis_name="batch", axis_index_groups=groups
        )
        loss = functools.partial(total_loss, fn)
        return map_over_devices(kind, jax.value_and_grad(loss, (0, 1, 2)), mesh)

    close(
        *(
            jax.jit(mapped(module))(x, scale, bias, weights)
            for module in (kernels, autodiff)
        )
    )


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("vmap", None),
        ("shard_map", None),
        ("unchecked shard_map", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_pooling_before_the_activation_inside_a_mapped_axis(kind, groups, mesh):
    """In the form that a TPU computes, statistics shared and gradients too."""
    x = draw_like(jnp.ones((NUM_DEVICES, 3, 5, 2)), 0)
    weights = draw_like(jnp.ones((NUM_DEVICES, 3, 2, 2)), 1)
    scale, bias = draw_like([jnp.ones((NUM_DEVICES, 2))] * 2, 2)

    def mapped(module):
        fn = functools.partial(
            module.batch_norm,
            epsilon=1e-3,
            activation=kernels.relu,
            pool=MaxPool(2),
            axis_name="batch",
            axis_index_groups=groups,
        )
        loss = functools.partial(total_loss, fn)
        return map_over_devices(kind, jax.value_and_grad(loss, (0, 1, 2)), mesh)

    with kernels.target_platform("tpu"):
        ours = jax.jit(mapped(kernels))(x, scale, bias, weights)
    close(ours, jax.jit(mapped(autodiff))(x, scale, bias, weights))


def test_masks_under_shard_map(mesh):
    """A replicated key gives every device the same mask, a split one its own."""
    x = jnp.ones((16, 3))
    for fn in (kernels.dropout, kernels.stochastic_depth):
        dropped = functools.partial(fn, rate=0.5)

        def loss(x, key, dropped=dropped):
            return jnp.sum(dropped(x, key) * x)

        def one_key(x, key, loss=loss, dropped=dropped):
            return dropped(x, key), jax.grad(loss)(x, key)

        def own_key(x, keys, one_key=one_key):
            return one_key(x, keys[0])

        same = jax.shard_map(
            one_key,
            mesh=mesh,
            in_specs=(P("batch"), P()),
            out_specs=P("batch"),
            check_vma=True,
        )
        own = jax.shard_map(
            own_key,
            mesh=mesh,
            in_specs=P("batch"),
            out_specs=P("batch"),
            check_vma=True,
        )
        key = jax.random.key(0)
        keys = jax.random.split(key, NUM_DEVICES)
        chunks = jnp.split(x, NUM_DEVICES)
        for got, all_keys in (
            (jax.jit(same)(x, key), [key] * NUM_DEVICES),
            (jax.jit(own)(x, keys), keys),
        ):
            expected = [one_key(c, k) for c, k in zip(chunks, all_keys, strict=True)]
            value, gradient = (
                jnp.concatenate(parts) for parts in zip(*expected, strict=True)
            )
            close(got, (value, gradient))
            np.testing.assert_array_equal(gradient, 2 * value)
