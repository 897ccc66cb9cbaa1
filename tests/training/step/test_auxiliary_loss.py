"""Auxiliary heads learn by their own losses, and are nothing else's business."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.quick import nightly_except
from jax.extend import core

import cnn_jax
from cnn_jax import sharding
from cnn_jax.data import load_dataset
from cnn_jax.layers import BatchNorm, Dense
from cnn_jax.training import (
    LossScale,
    StepOptions,
    TrainConfig,
    TrainState,
    step_options,
    train_step,
)
from cnn_jax.training.devices.spread import make_step
from cnn_jax.training.optimizers.roles import parameter_depths
from cnn_jax.training.run.fit import fit

CLASSES = 10
WEIGHT = 0.3
KEY = jax.random.key(3)
LABELS = np.arange(16) % CLASSES


class TwoHeads(nn.Module):
    """Two stages, an auxiliary head behind each and a head behind both."""

    num_classes: int = CLASSES
    aux_heads: bool = True
    dtype: str | None = None
    param_dtype: str = "float32"

    @property
    def auxiliary_endpoints(self):
        """The endpoints that are auxiliary heads."""
        return ("aux1", "aux2") if self.aux_heads else ()

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        """Returns the logits, and the endpoints if asked for."""
        dense = functools.partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        named, x = {}, x.reshape(x.shape[0], -1)
        for number in (1, 2):
            x = dense(8, use_bias=False, name=f"stage{number}")(x)
            x = jnp.tanh(
                BatchNorm(
                    use_running_average=not train,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"norm{number}",
                )(x)
            )
            if self.aux_heads and (train or endpoints or self.is_initializing()):
                hidden = jnp.tanh(dense(4, name=f"aux{number}_hidden")(x))
                head = dense(self.num_classes, name=f"aux{number}")
                named[f"aux{number}"] = head(hidden)
            named[f"stage{number}"] = x
        if self.num_classes:
            x = dense(self.num_classes, name="head")(x)
        if x.dtype in (jnp.bfloat16, jnp.float16):
            x = x.astype(jnp.float32)
        return (x, named) if endpoints else x


AUXILIARY = {"aux1", "aux2", "aux1_hidden", "aux2_hidden"}


def make_batch(dtype=jnp.float32, labels=LABELS):
    images = jax.random.normal(jax.random.key(1), (16, 4, 4, 1), dtype)
    return {"image": images, "label": jnp.asarray(labels)}


def make_state(dtype="float32", model=None, **options):
    """Returns a state whose next update is minus the gradient."""
    model = model or TwoHeads(param_dtype=dtype)
    images = make_batch(jnp.dtype(dtype))["image"]
    create = functools.partial(TrainState.create, model, optax.sgd(1.0), **options)
    return jax.jit(create)(jax.random.key(0), images)


def make_options(**options):
    return StepOptions(auxiliary_endpoints=("aux1", "aux2"), **options)


def jitted(**options):
    return jax.jit(functools.partial(train_step, options=make_options(**options)))


def gradient_of(state, after):
    return jax.tree.map(jnp.subtract, state.params, after.params)


def assert_took(gradient, main, state, after, metrics):
    """Asserts that a step went down the gradient, and reports the main loss alone."""
    found = gradient_of(state, after)
    chex.assert_trees_all_close(found, gradient, rtol=1e-10, atol=1e-14)
    # What is reported is comparable with what an evaluation finds.
    assert float(metrics["loss"]) == pytest.approx(float(main), rel=1e-6)


def expected_gradient(params, state, batch, targets, *, weight=WEIGHT, train=True):
    """Returns main + weight (aux1 + aux2), the main loss, and the whole's gradient."""

    def cross_entropy(logits):
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))

    def loss_fn(params):
        (logits, named), _ = TwoHeads(param_dtype="float64").apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=train,
            endpoints=True,
            mutable=["batch_stats"],
        )
        main = cross_entropy(logits)
        sides = cross_entropy(named["aux1"]) + cross_entropy(named["aux2"])
        return main + weight * sides, main

    (_, main), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return main, gradient


ONE_HOT = np.eye(CLASSES)[LABELS]
MIXED = 0.7 * ONE_HOT + 0.3 * ONE_HOT[::-1]
TARGETS = {
    "integers": (LABELS, {}, ONE_HOT),
    "smoothed": (LABELS, {"label_smoothing": 0.1}, 0.9 * ONE_HOT + 0.01),
    "mixed": (MIXED, {}, MIXED),
    "mixed and smoothed": (MIXED, {"label_smoothing": 0.1}, 0.9 * MIXED + 0.01),
}


@pytest.mark.parametrize("name", nightly_except(["mixed and smoothed"], TARGETS))
def test_the_gradient_is_that_of_the_weighted_sum(name, x64):
    labels, options, targets = TARGETS[name]
    batch, state = make_batch(jnp.float64, labels), make_state("float64")
    main, gradient = expected_gradient(state.params, state, batch, targets)
    after, metrics = jitted(auxiliary_weight=WEIGHT, **options)(state, batch, KEY)
    assert_took(gradient, main, state, after, metrics)


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_it(x64):
    batch, state = make_batch(jnp.float64), make_state("float64")
    parts = [
        expected_gradient(
            state.params,
            state,
            {name: array[part::2] for name, array in batch.items()},
            ONE_HOT[part::2],
        )
        for part in range(2)
    ]
    main, gradient = jax.tree.map(lambda *leaves: sum(leaves) / 2, *parts)
    step = jitted(auxiliary_weight=WEIGHT, accumulate_steps=2)
    after, metrics = step(state, batch, KEY)
    assert_took(gradient, main, state, after, metrics)


@pytest.mark.slow
def test_sharpness_is_that_of_the_whole_loss(x64):
    radius, batch, state = 0.5, make_batch(jnp.float64), make_state("float64")
    main, first = expected_gradient(state.params, state, batch, ONE_HOT)
    perturbed = jax.tree.map(
        lambda w, g: w + radius * g / optax.tree.norm(first), state.params, first
    )
    _, gradient = expected_gradient(perturbed, state, batch, ONE_HOT)
    step = jitted(auxiliary_weight=WEIGHT, sam_radius=radius)
    after, metrics = step(state, batch, KEY)
    assert_took(gradient, main, state, after, metrics)


@pytest.mark.slow
def test_running_statistics_may_be_frozen_beside_them(x64):
    batch, state = make_batch(jnp.float64), make_state("float64")
    main, gradient = expected_gradient(state.params, state, batch, ONE_HOT, train=False)
    for norm in ("norm1", "norm2"):
        gradient[norm] = jax.tree.map(jnp.zeros_like, gradient[norm])
    step = jitted(auxiliary_weight=WEIGHT, batch_norm="frozen")
    after, metrics = step(state, batch, KEY)
    assert_took(gradient, main, state, after, metrics)
    chex.assert_trees_all_equal(after.batch_stats, state.batch_stats)


@pytest.mark.slow
def test_a_loss_scale_scales_them_too():
    batch, state = make_batch(), make_state()
    scaled = state.replace(loss_scale=LossScale.create(2.0**10, 100))
    step = jitted(auxiliary_weight=WEIGHT)
    expected, expected_metrics = step(state, batch, KEY)
    found, metrics = step(scaled, batch, KEY)
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_their_loss_is_computed_as_exactly_as_the_main_one(dtype):
    # A loss of half precision's logits as they are would be one of half precision.
    state = make_state(model=TwoHeads(dtype=dtype))
    step = functools.partial(train_step, options=make_options(auxiliary_weight=WEIGHT))
    program = jax.make_jaxpr(step)(state, make_batch(), KEY).jaxpr
    read = {"log": [], "tanh": []}
    for equation in equations(program):
        if equation.primitive.name in read:
            (operand,) = equation.invars
            read[equation.primitive.name].append(str(operand.aval.dtype))
    assert read["log"] == ["float32"] * 3
    assert set(read["tanh"]) == {dtype}


def equations(program):
    for equation in program.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "shard_map"])
def test_every_strategy_trains_them_alike(strategy):
    batch, state = make_batch(), make_state()
    step_fn = functools.partial(
        train_step, options=make_options(auxiliary_weight=WEIGHT)
    )
    expected, expected_metrics = jax.jit(step_fn)(state, batch, KEY)
    mesh = sharding.make_mesh(jax.devices()[:4])
    spread = make_step(step_fn, strategy=strategy, mesh=mesh)
    found, metrics = jax.jit(spread)(state, batch, KEY)
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-5)


def test_with_weight_0_no_gradient_reaches_them():
    batch, state = make_batch(), make_state()
    gradient = gradient_of(state, jitted()(state, batch, KEY)[0])
    for name, tree in gradient.items():
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
        assert (largest == 0.0) == (name in AUXILIARY), name
    alone = make_state(model=TwoHeads(aux_heads=False))
    params = {name: state.params[name] for name in alone.params}
    alone = alone.replace(params=params)
    expected = gradient_of(alone, jitted()(alone, batch, KEY)[0])
    found = {name: gradient[name] for name in expected}
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-7)


def test_an_infinite_auxiliary_loss_is_no_good_step():
    state, batch = make_state(), make_batch(labels=np.zeros(16, int))
    # Class 0 has probability 0 according to the one head alone.
    biases = state.params["aux2"]["bias"].at[0].set(-jnp.inf)
    head = {**state.params["aux2"], "bias": biases}
    state = state.replace(params={**state.params, "aux2": head})
    step = jitted(auxiliary_weight=WEIGHT, skip_non_finite=True)
    after, metrics = step(state, batch, KEY)
    assert not np.isfinite(float(metrics["loss"]))
    assert float(metrics["skipped"]) == 1.0
    chex.assert_trees_all_equal(after.params, state.params)
    after, metrics = jitted(skip_non_finite=True)(state, batch, KEY)
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["skipped"]) == 0.0


def test_a_weight_for_heads_that_are_not_there_is_refused():
    state = make_state(model=TwoHeads(aux_heads=False))
    match = r"got \['aux1', 'aux2'\].*\['stage1', 'stage2'\]"
    with pytest.raises(ValueError, match=match):
        train_step(state, make_batch(), KEY, options=make_options(auxiliary_weight=0.3))


def test_only_a_network_with_such_heads_is_asked_for_them():
    config = TrainConfig(auxiliary_weight=0.4)
    names = {"googlenet", "inception_v3"}
    for name in (*names, "resnet20", "lenet5"):
        options = step_options(config, model=cnn_jax.create_model(name))
        assert options.auxiliary_weight == (0.4 if name in names else 0.0)
    for model in (cnn_jax.create_model("googlenet", aux_heads=False), object(), None):
        assert step_options(config, model=model).auxiliary_weight == 0.0


def moved(before, after):
    """Returns the modules of which a parameter differs."""
    return {
        name
        for name, tree in before.items()
        if any(
            np.any(old != new)
            for old, new in zip(
                jax.tree.leaves(tree), jax.tree.leaves(after[name]), strict=True
            )
        )
    }


def trained(model, config, digits, **changes):
    """Returns the parameters before and after a run without weight decay."""
    train, test = digits
    images = jnp.zeros((1, *train.image_shape))
    initial = jax.jit(functools.partial(model.init, train=False))(KEY, images)
    config = dataclasses.replace(config, epochs=1, weight_decay=0.0, **changes)
    result = fit(
        model,
        train,
        test=test,
        config=config,
        progress=False,
        initial_variables=initial,
    )
    return initial["params"], result


@pytest.mark.slow
def test_the_loop_trains_them(config, digits):
    before, result = trained(TwoHeads(), config, digits)
    assert moved(before, result.state.params) == set(before)
    before, untrained = trained(TwoHeads(), config, digits, auxiliary_weight=0.0)
    assert moved(before, untrained.state.params) == set(before) - AUXILIARY
    # With other gradients the trunk went another way.
    assert moved(result.state.params, untrained.state.params) == set(before)


@pytest.mark.slow
def test_the_loop_trains_a_network_that_knows_no_endpoints(tiny_net, config, digits):
    before, result = trained(tiny_net(), config, digits, auxiliary_weight=0.3)
    assert moved(before, result.state.params) == set(before)


def test_a_weight_below_0_or_infinite_is_refused():
    for weight in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"auxiliary_weight: got .* 0 or more"):
            TrainConfig(auxiliary_weight=weight).validate()
    TrainConfig(auxiliary_weight=0.0).validate()
    assert TrainConfig().auxiliary_weight == WEIGHT


def test_fields_that_an_older_version_did_not_have_are_at_their_defaults():
    config = TrainConfig(epochs=7, auxiliary_weight=0.5)
    assert TrainConfig.completed(config.to_dict()) == config.to_dict()
    saved = {**config.to_dict(), "of_old": 1}
    del saved["auxiliary_weight"]
    expected = {**config.to_dict(), "auxiliary_weight": WEIGHT, "of_old": 1}
    assert TrainConfig.completed(saved) == expected


def test_they_end_no_stage_and_are_as_deep_as_the_head():
    images = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    depths = {
        path.partition("/")[0]: depth
        for path, depth in parameter_depths(TwoHeads(), images).items()
    }
    trunk = {"norm1": 2, "stage1": 2, "norm2": 1, "stage2": 1, "head": 0}
    assert depths == {**trunk, **dict.fromkeys(AUXILIARY, 0)}


@pytest.mark.nightly
def test_googlenets_heads_learn_in_the_loop(config, digits):
    narrow = ((4, 4, 4, 4, 4, 4),)
    model = cnn_jax.create_model(
        "googlenet", num_classes=10, stages=(narrow * 2, narrow * 5, narrow * 2)
    )
    splits = [
        load_dataset("digits", split, image_size=16).take(np.arange(64))
        for split in ("train", "test")
    ]
    before, result = trained(model, config, splits, image_size=16)
    assert {"aux1", "aux2"} <= set(before)
    assert moved(before, result.state.params) == set(before)
