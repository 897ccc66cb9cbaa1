"""Kernels on meshes whose axes are `AxisType.Explicit`, the default of `jax.make_mesh`.

The column "explicit axes" of docs/transformations.md holds each kernel's numbers; here
are the shardings of values and gradients, which cost no compiling, other meshes, and
transformations on top.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import slow_except
from helpers.transformations import first_cases
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

from cnn_jax import kernels
from cnn_jax.analysis.cases import is_floating
from cnn_jax.analysis.gradcheck import draw_like
from cnn_jax.kernels import autodiff

pytestmark = pytest.mark.usefixtures("x64", "light_compilation")

CASES = first_cases()
EXPLICIT, AUTO = AxisType.Explicit, AxisType.Auto

# The mesh's shape and axis types, and what the examples are sharded over. The first
# axis is "a", the second "b".
MESHES = {
    "one axis": ((8,), (EXPLICIT,), "a"),
    "two axes": ((4, 2), (EXPLICIT, EXPLICIT), ("a", "b")),
    "one of two axes": ((4, 2), (EXPLICIT, EXPLICIT), "b"),
    "beside an automatic axis": ((4, 2), (EXPLICIT, AUTO), "a"),
    "one device": ((1,), (EXPLICIT,), "a"),
    "replicated": ((8,), (EXPLICIT,), None),
}


def make_mesh(label):
    shape, types, axis = MESHES[label]
    names = ("a", "b")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=types), axis


def specs(tree):
    """Returns the specs of what is traced: `eval_shape` leaves them out on some."""
    return jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, tree)


def loss(value):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(value))


def traced_specs(case, fn, arguments, axis):
    """Returns the specs of a kernel's value and gradients, and of its arguments."""
    found = []

    def trace(arguments):
        arguments = {
            name: reshard(array, P(axis) if case.has_examples(name, array) else P())
            for name, array in arguments.items()
        }
        floating = {n: a for n, a in arguments.items() if is_floating(a)}
        gradients = jax.grad(lambda some: loss(case.apply(fn, {**arguments, **some})))
        found.append(
            (
                specs(case.apply(fn, arguments)),
                specs(gradients(floating)),
                specs(floating),
            )
        )
        return ()

    jax.eval_shape(trace, arguments)
    return found[0]


def check_specs(label, mesh_label):
    case = CASES[label].with_batch(8)
    mesh, axis = make_mesh(mesh_label)
    arguments = case.draw(0)
    with jax.set_mesh(mesh):
        value, gradients, floating = traced_specs(
            case, getattr(kernels, case.kernel), arguments, axis
        )
        expected = traced_specs(case, getattr(autodiff, case.kernel), arguments, axis)[
            0
        ]
    assert value == expected
    assert gradients == floating


@pytest.mark.parametrize("label", CASES)
def test_values_are_sharded_as_the_twins_and_gradients_as_the_arguments(label):
    check_specs(label, "one axis")


@pytest.mark.parametrize("mesh_label", list(MESHES)[1:])
@pytest.mark.parametrize(
    "label", ["conv", "conv_filter_grad", "max_pool", "batch_norm", "dropout"]
)
def test_the_same_on_other_meshes(label, mesh_label):
    check_specs(label, mesh_label)


def small_network(module, x, w, b, scale):
    y = module.max_pool(module.conv(x, w, b), 2)
    y, mean, var = module.batch_norm(y, scale, b, epsilon=1e-3, activation=module.relu)
    return y, mean, var


@pytest.fixture
def operands():
    shapes = ((8, 4, 4, 4), (3, 3, 4, 8), (8,), (8,))
    return draw_like([jnp.ones(shape) for shape in shapes], 0)


def value_gradient_and_second(module, operands):
    def total(operands):
        return loss(small_network(module, *operands))

    def slope(operands):
        return sum(jnp.sum(g * g) for g in jax.grad(total)(operands))

    return (
        small_network(module, *operands),
        jax.grad(total)(operands),
        jax.grad(slope)(operands),
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh_label", ["one axis", "beside an automatic axis"])
def test_numbers_of_second_order_are_those_without_a_mesh(operands, mesh_label):
    run = functools.partial(value_gradient_and_second, kernels)
    expected = jax.jit(run)(operands)
    mesh, axis = make_mesh(mesh_label)
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(operands[0], P(axis)), *operands[1:]]
        actual = jax.jit(run)(sharded)
        assert actual[0][0].sharding.spec[0] == axis
        assert actual[1][0].sharding.spec[0] == axis
        assert actual[0][1].sharding.is_fully_replicated
        assert actual[1][1].sharding.is_fully_replicated
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=1e-9, atol=1e-11
    )


def test_each_call_of_its_own_without_jit(operands):
    mesh, axis = make_mesh("one axis")
    x, w, b, _ = operands
    run = jax.value_and_grad(lambda x, w: loss(kernels.conv(x, w, b)), (0, 1))
    expected = run(x, w)
    with jax.set_mesh(mesh):
        actual = run(jax.device_put(x, P(axis)), w)
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(
    "kind", slow_except({"vmap"}, ["vmap", "scan", "checkpoint", "cond"])
)
def test_other_transformations_on_top(operands, kind):
    x, w, _, _ = operands
    mesh, axis = make_mesh("one axis")

    def layer(x, w):
        return kernels.relu(kernels.max_pool(kernels.conv(x, w), 3, strides=1))

    def total(x, w):
        if kind == "checkpoint":
            return loss(jax.checkpoint(layer)(x, w))
        if kind == "cond":
            other = functools.partial(kernels.avg_pool, window=3, strides=1)
            chosen = jax.lax.cond(
                jnp.sum(w) > 0, layer, lambda x, w: other(kernels.conv(x, 2 * w)), x, w
            )
            return loss(chosen)
        if kind == "vmap":
            # Over the sharded axis itself.
            return loss(jax.vmap(lambda row: layer(row[None], w))(x))

        def body(carry, _):
            return jax.lax.pad(layer(carry, w), 0.0, _ONE_MORE)[..., :4], None

        return loss(jax.lax.scan(body, x, length=2)[0])

    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    expected = run(x, w)
    with jax.set_mesh(mesh):
        actual = run(jax.device_put(x, P(axis)), w)
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=1e-9, atol=1e-11
    )


_ONE_MORE = ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0))


def test_spatial_sharding_where_the_twin_has_it():
    x, w = draw_like([jnp.ones((2, 8, 6, 4)), jnp.ones((3, 3, 4, 8))], 0)
    mesh, axis = make_mesh("one axis")
    run = jax.jit(jax.value_and_grad(lambda x, w: loss(kernels.conv(x, w))))
    expected = run(x, w)
    with jax.set_mesh(mesh):
        rows = jax.device_put(x, P(None, axis))
        actual = run(rows, w)
        assert actual[1].sharding.spec[1] == axis
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=1e-9, atol=1e-11
    )


def test_what_the_twin_cannot_shard_says_what_to_do(operands):
    mesh, axis = make_mesh("one axis")
    x, w, _, _ = operands
    with jax.set_mesh(mesh):
        of_outputs = jax.device_put(w, P(None, None, None, axis))
        x = jax.device_put(x, P(axis))
        with pytest.raises(
            ValueError,
            match=r"conv: got float64\[8@a,4,4,4\], float64\[3,3,4,8@a\].*reshard the",
        ):
            jax.eval_shape(kernels.conv, x, of_outputs)

        def gathered(w):
            return loss(kernels.conv(x, reshard(w, P())))

        # As lax: whole filters, gradients in the parameters' own sharding.
        assert jax.jit(jax.grad(gathered))(of_outputs).sharding.spec[-1] == axis


def test_bad_input_is_explained_by_the_kernel(operands):
    mesh, axis = make_mesh("one axis")
    x, w, _, _ = operands
    with jax.set_mesh(mesh):
        x = jax.device_put(x, P(axis))
        with pytest.raises(ValueError, match="expected 4 input channels in the filter"):
            jax.eval_shape(kernels.conv, x, w[:, :, :3])
        with pytest.raises(ValueError, match="padding: got 'same\\?'"):
            jax.eval_shape(functools.partial(kernels.conv, padding="same?"), x, w)


def test_options_given_as_arrays_keep_their_values():
    x, scale = jnp.ones((8, 4)), jnp.ones(4)
    mesh, axis = make_mesh("one axis")
    with jax.set_mesh(mesh):
        epsilon = jnp.asarray(1e-3)
        x = jax.device_put(x, P(axis))
        jax.eval_shape(
            lambda x: kernels.layer_norm(x, scale, scale, epsilon=epsilon), x
        )


@pytest.mark.parametrize("axis_type", [None, AUTO])
@pytest.mark.parametrize("label", ["conv", "max_pool", "batch_norm", "dropout"])
def test_nothing_changes_without_explicit_axes(label, axis_type):
    case = CASES[label]
    arguments = case.draw(0)
    fn = getattr(kernels, case.kernel)

    def program(fn):
        return str(jax.make_jaxpr(lambda some: case.apply(fn, some))(arguments))

    if axis_type is None:
        assert program(fn) == program(fn.__wrapped__)
        return
    with jax.set_mesh(jax.make_mesh((8,), ("a",), axis_types=(axis_type,))):
        assert program(fn) == program(fn.__wrapped__)


def test_masks_are_those_without_a_mesh():
    mesh, axis = make_mesh("one axis")
    x, key = jnp.ones((8, 4, 4, 3)), jax.random.key(3)
    for fn in (
        kernels.dropout,
        kernels.stochastic_depth,
        kernels.spatial_dropout,
        functools.partial(kernels.drop_block, block_size=2),
    ):
        run = jax.jit(functools.partial(fn, rate=0.4))
        expected = run(x, key)
        with jax.set_mesh(mesh):
            actual = run(jax.device_put(x, P(axis)), key)
            assert actual.sharding.spec[0] == axis
        np.testing.assert_array_equal(actual, expected)
