"""The strategies do what one device does, and exchange no more than they say."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from helpers import ten_steps

import cnn_jax
from cnn_jax import kernels, sharding, trees
from cnn_jax.training import TrainState, train_step
from cnn_jax.training.devices.spread import make_step

# Strategy, mesh, and whether the state is split.
STRATEGIES = {
    "data parallel": ("jit", "data=8", False),
    "fsdp": ("jit", "data=2,fsdp=4", True),
    "spatial": ("jit", "data=2,spatial=4", False),
    "shard_map": ("shard_map", "data=8", False),
    "pmap": ("pmap", "data=8", False),
}
KERNEL = "stage2_block1/conv2/conv/kernel"
TOLERANCES = {np.float32: 1e-4, np.float64: 1e-10}


def step_of(name, dtype=np.float32, **options):
    strategy, mesh, is_split = STRATEGIES[name]
    mesh = sharding.make_mesh(specification=mesh)
    if is_split:
        state = ten_steps.abstract_state(dtype)
        # The network is tiny, so that its largest leaves count as large.
        options["state_shardings"] = sharding.state_shardings(
            state, mesh, large_leaf=512
        )
    return make_step(train_step, strategy=strategy, mesh=mesh, **options)


@functools.cache
def expected(dtype, num_groups=1):
    return ten_steps.run(ten_steps.on_one_device(num_groups), dtype)


def assert_same(found, expected, dtype):
    differences = ten_steps.relative_differences(found, expected)
    assert max(differences.values()) < TOLERANCES[dtype], differences


@pytest.mark.parametrize(
    "name",
    # pmap's step is shard_map's, and its default test is the one of statistics.
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "pmap"))
        for name in STRATEGIES
    ],
)
def test_eight_devices_do_what_one_does(name, x64):
    found = ten_steps.run(step_of(name, np.float64), np.float64)
    assert_same(found, expected(np.float64), np.float64)


@pytest.mark.parametrize(
    "name",
    [
        "shard_map",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in STRATEGIES
            if name != "shard_map"
        ),
    ],
)
def test_statistics_in_one_pass_change_nothing(name, x64):
    """As on a TPU; one device has taken them in two."""
    with kernels.target_platform("tpu"):
        found = ten_steps.run(step_of(name, np.float64), np.float64)
    assert_same(found, expected(np.float64), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_eight_devices_do_what_one_does_in_float32(name):
    found = ten_steps.run(step_of(name), np.float32)
    assert_same(found, expected(np.float32), np.float32)


@pytest.mark.parametrize(
    ("scope", "num_groups"),
    [("device", 8), pytest.param(4, 2, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "name",
    [pytest.param("data parallel", marks=pytest.mark.slow), "shard_map", "pmap"],
)
def test_statistics_run_over_the_scope(name, scope, num_groups):
    found = ten_steps.run(step_of(name, batch_norm_scope=scope), np.float32)
    assert_same(found, expected(np.float32, num_groups), np.float32)


@pytest.mark.slow
def test_the_scopes_differ():
    found = expected(np.float32, 8)
    difference = ten_steps.relative_differences(found, expected(np.float32))
    assert min(difference["params"], difference["batch_stats"]) > 1e-3


def test_split_leaves_stay_split_and_nothing_compiles_twice(x64):
    step = step_of("fsdp", np.float64)
    state = ten_steps.make_state(np.float64, step.state)
    run = step.jitted(compiler_options=ten_steps.QUICK)
    for batch in ten_steps.make_batches(np.float64)[:2]:
        state, _ = run(state, batch, jax.random.key(0))
    assert run._cache_size() == 1
    kernel = trees.named_leaves(state.params)[KERNEL]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 3, 16, 4)
    moments = trees.named_leaves(state.opt_state)
    (moment,) = (leaf for name, leaf in moments.items() if name.endswith(KERNEL))
    assert moment.sharding == kernel.sharding


def all_reduces(program):
    return re.findall(r"= \S.* all-reduce(?:-start)?\(", program.as_text())


@pytest.mark.parametrize("name", ["data parallel", "shard_map", "pmap"])
def test_devices_with_their_own_statistics_talk_twice_at_most(name):
    step = step_of(name, batch_norm_scope="device")
    program, _ = ten_steps.compile_step(step, np.float32)
    assert 1 <= len(all_reduces(program)) <= 2


def resnet50_state():
    model = cnn_jax.create_model("resnet50")
    create = functools.partial(
        TrainState.create, model, optax.sgd(0.1, momentum=0.9), jax.random.key(0)
    )
    return jax.eval_shape(create, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))


@pytest.mark.nightly
def test_resnet50_under_shard_map_talks_twice_at_most():
    mesh = sharding.make_mesh()
    step = make_step(
        train_step, strategy="shard_map", mesh=mesh, batch_norm_scope="device"
    )
    batch = {
        "image": jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    run = step.jitted(compiler_options=ten_steps.QUICK)
    program = run.lower(resnet50_state(), batch, key).compile()
    assert 1 <= len(all_reduces(program)) <= 2


def test_splitting_the_state_of_resnet50_leaves_a_sixth_on_a_device():
    state = resnet50_state()
    kept = {"params": state.params, "opt_state": state.opt_state}
    whole, split = (
        sharding.bytes_per_device(
            kept,
            sharding.state_shardings(kept, sharding.make_mesh(specification=mesh)),
        )
        for mesh in ("data=8", "fsdp=8")
    )
    assert whole >= 2 * 4 * 25_557_032
    assert split <= whole / 6


def test_gradients_alone_are_sent_in_bfloat16_where_asked():
    step = step_of("shard_map", reduce_dtype=jnp.bfloat16)
    state = ten_steps.abstract_state(np.float32)
    batch = ten_steps.make_batches(np.float32)[0]
    text = step.jitted().lower(state, batch, jax.random.key(0)).as_text()
    sums = re.findall(r"\}\) : \(tensor<(\d*)x?(\w+)>\) -> tensor<", text)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert [count for count, dtype in sums if dtype == "bf16"] == [str(size)], sums


@pytest.mark.slow
def test_sums_in_bfloat16_are_near():
    step = step_of("shard_map", reduce_dtype=jnp.bfloat16)
    found = ten_steps.run(step, np.float32)
    difference = ten_steps.relative_differences(found, expected(np.float32))
    assert 1e-5 < difference["params"] < 3e-2


@struct.dataclass
class Weights:
    """The least that a step needs: parameters, and a network that reads them."""

    params: jax.Array
    apply_fn: object = struct.field(pytree_node=False)
    average: jax.Array | None = None


def small_step(after):
    """Returns a step of which `after` makes the end, from what one device knows."""

    def step(state, batch, key):
        def loss_fn(params):
            return jnp.mean(state.apply_fn({"params": params}, batch["image"]))

        loss, gradient = jax.value_and_grad(loss_fn)(state.params)
        return after(state, loss, gradient, key)

    return step


def run_small(after, strategy, **state):
    step = make_step(small_step(after), strategy=strategy, mesh=sharding.make_mesh())
    image = jnp.arange(16.0).reshape(16, 1, 1)
    weights = Weights(
        params=jnp.ones((1, 1, 1)),
        apply_fn=lambda variables, x: (x * variables["params"]) ** 2,
        **state,
    )
    return step.jitted()(weights, {"image": image}, jax.random.key(5))


@pytest.mark.parametrize("strategy", ["shard_map", "pmap"])
def test_devices_draw_with_keys_of_their_own(strategy):
    _, draw = run_small(
        lambda state, loss, gradient, key: (state, jax.random.uniform(key)), strategy
    )
    keys = [jax.random.fold_in(jax.random.key(5), index) for index in range(8)]
    assert float(draw) == pytest.approx(np.mean([jax.random.uniform(k) for k in keys]))


@pytest.mark.parametrize("strategy", ["shard_map", "pmap"])
def test_gradients_are_averaged_and_what_follows_from_them_is_not_again(strategy):
    def after(state, loss, gradient, key):
        new = state.replace(params=state.params - gradient, average=loss)
        return new, {"norm": jnp.sqrt(jnp.sum(gradient**2)), "loss": loss}

    state, metrics = run_small(after, strategy, average=jnp.zeros(()))
    loss = np.mean(np.arange(16.0) ** 2)
    assert float(metrics["loss"]) == pytest.approx(loss)
    assert float(metrics["norm"]) == pytest.approx(2 * loss)
    np.testing.assert_allclose(state.params, [[[1 - 2 * loss]]], rtol=1e-6)
    np.testing.assert_allclose(state.average, loss, rtol=1e-6)


@pytest.mark.parametrize("strategy", ["shard_map", "pmap"])
@pytest.mark.parametrize(
    ("after", "message"),
    [
        (
            lambda state, loss, gradient, key: (
                state.replace(params=state.params * jnp.where(loss > 1, 2.0, 1.0)),
                {},
            ),
            "update of 0/params ",
        ),
        (
            lambda state, loss, gradient, key: (state, {"bad": loss > 1}),
            "'1/bad'.*have no mean",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(strategy, after, message):
    with pytest.raises(ValueError, match=message):
        run_small(after, strategy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "pjit"}, "expected 'jit', 'shard_map' or 'pmap'"),
        ({"reduce_dtype": jnp.bfloat16}, "XLA inserts the sums"),
        ({"batch_norm_scope": 3}, "divides the 8 parts"),
        ({"batch_norm_scope": 0}, "divides the 8 parts"),
        ({"batch_norm_scope": True}, "divides the 8 parts"),
        ({"batch_norm_scope": "local"}, "divides the 8 parts"),
        ({"mesh": "data=2,spatial=4", "batch_norm_scope": "device"}, "parts of images"),
        ({"strategy": "shard_map", "mesh": "data=2,fsdp=4"}, "only splits the batch"),
        ({"strategy": "pmap", "mesh": "fsdp=8"}, "only splits the batch"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    mesh = sharding.make_mesh(specification=options.pop("mesh", "data=8"))
    with pytest.raises(ValueError, match=message):
        make_step(train_step, mesh=mesh, **{"strategy": "jit", **options})


def test_a_split_state_is_refused_where_devices_keep_it_whole():
    with pytest.raises(ValueError, match="state_shardings: got leaves that are split"):
        make_step(
            train_step,
            strategy="shard_map",
            mesh=sharding.make_mesh(),
            state_shardings={"w": sharding.batch_sharded(sharding.make_mesh())},
        )


@pytest.mark.parametrize(
    ("shape", "message"),
    [((6, 8, 8, 3), "batch_size: got 6"), ((8, 6, 8, 3), "image height: got 6")],
)
def test_batches_that_do_not_split_are_refused(shape, message):
    step = step_of("spatial") if shape[0] == 8 else step_of("data parallel")
    with pytest.raises(ValueError, match=message):
        step(None, {"image": np.zeros(shape)}, None)
