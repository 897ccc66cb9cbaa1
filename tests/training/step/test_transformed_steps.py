"""Options of a step that change gradient and update, on networks of a matrix or two."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.training import (
    LossScale,
    StepOptions,
    TrainConfig,
    TrainState,
    step_options,
    train_step,
)
from cnn_jax.training.step.gradients import _ascend

CLASSES = 3
KEY = jax.random.key(3)


class TwoLayers:
    """A network in plain jax, with statistics of its hidden features."""

    def __init__(self, dtype=jnp.float32):
        self.dtype = dtype

    def init(self, key, images, train):
        keys = jax.random.split(key)
        return {
            "params": {
                "first": {"kernel": jax.random.normal(keys[0], (4, 8))},
                "head": {
                    "kernel": jax.random.normal(keys[1], (8, CLASSES)),
                    "bias": jnp.array([-0.0, 0.0, 1.0]),
                },
            },
            "batch_stats": {"mean": jnp.zeros(8)},
        }

    def apply(self, variables, images, *, train, rngs=None, mutable=()):
        params = jax.tree.map(lambda leaf: leaf.astype(self.dtype), variables["params"])
        images = images.reshape(images.shape[0], -1).astype(self.dtype)
        hidden = jnp.tanh(images @ params["first"]["kernel"])
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"][None]
        mean = variables["batch_stats"]["mean"]
        batch_mean = hidden.mean(0).astype(jnp.float32)
        updates = {"batch_stats": {"mean": 0.5 * mean + 0.5 * batch_mean}}
        logits = logits.astype(jnp.float32)
        return (logits, updates) if mutable else logits


def make_batch(num_examples=12, seed=1):
    images = jax.random.normal(jax.random.key(seed), (num_examples, 2, 2, 1))
    return {"image": images, "label": jnp.arange(num_examples) % CLASSES}


def make_state(optimizer=None, model=None, **options):
    return TrainState.create(
        model or TwoLayers(),
        optimizer or optax.sgd(0.5, momentum=0.9),
        jax.random.key(0),
        make_batch(1)["image"],
        **options,
    )


def jitted(**options):
    return jax.jit(functools.partial(train_step, options=StepOptions(**options)))


def mean_loss(params, batch, model=TwoLayers):
    logits, _ = model().apply(
        {"params": params, "batch_stats": {"mean": jnp.zeros(8)}},
        batch["image"],
        train=True,
        mutable=["batch_stats"],
    )
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.mean(log_probabilities[jnp.arange(len(logits)), batch["label"]])


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize(("parts", "sam_radius"), [(3, 0.0), (12, 0.0), (2, 0.5)])
def test_parts_of_a_batch_give_the_update_of_the_whole(parts, sam_radius):
    whole = jitted(sam_radius=sam_radius)
    accumulated = jitted(sam_radius=sam_radius, accumulate_steps=parts)
    expected = found = make_state()
    for seed in range(3):
        batch = make_batch(seed=seed)
        expected, expected_metrics = whole(expected, batch, KEY)
        found, metrics = accumulated(found, batch, KEY)
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-6)
    assert int(found.step) == 3


def hidden_mean(state, images):
    kernel = np.asarray(state.params["first"]["kernel"])
    return np.tanh(np.asarray(images).reshape(-1, 4) @ kernel).mean(0)


def test_statistics_run_through_the_parts_one_after_the_other():
    batch, start = make_batch(), make_state()
    state, _ = jitted(accumulate_steps=3)(start, batch, KEY)
    mean = np.zeros(8)
    for part in range(3):
        mean = 0.5 * mean + 0.5 * hidden_mean(start, batch["image"][part::3])
    np.testing.assert_allclose(state.batch_stats["mean"], mean, rtol=1e-5)


def test_each_part_draws_by_a_key_of_its_own():
    class Noisy(TwoLayers):
        def apply(self, variables, images, *, train, rngs=None, mutable=()):
            noise = jax.random.normal(rngs["dropout"], ())
            return super().apply(
                variables, images * 0 + noise, train=train, mutable=mutable
            )

    start = make_state(model=Noisy())
    state, _ = jitted(accumulate_steps=2)(start, make_batch(), KEY)
    first, second = (
        hidden_mean(start, np.full(4, jax.random.normal(jax.random.fold_in(KEY, part))))
        for part in (0, 1)
    )
    expected = 0.25 * first + 0.5 * second
    np.testing.assert_allclose(state.batch_stats["mean"], expected, rtol=1e-5)


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match="got 5 for a batch of 12"):
        train_step(
            make_state(), make_batch(), KEY, options=StepOptions(accumulate_steps=5)
        )


def test_sam_descends_the_gradient_at_perturbed_parameters():
    batch, radius = make_batch(), 0.3
    state = make_state(optax.sgd(0.5))
    gradients = jax.grad(mean_loss)(state.params, batch)
    length = np.sqrt(
        sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients))
    )
    perturbed = jax.tree.map(
        lambda w, g: w + radius * g / length, state.params, gradients
    )
    expected = jax.tree.map(
        lambda w, g: w - 0.5 * g, state.params, jax.grad(mean_loss)(perturbed, batch)
    )
    found, metrics = jitted(sam_radius=radius)(state, batch, KEY)
    chex.assert_trees_all_close(found.params, expected, rtol=1e-5, atol=1e-6)
    plain, plain_metrics = jitted()(state, batch, KEY)
    chex.assert_trees_all_equal(metrics, plain_metrics)
    chex.assert_trees_all_equal(found.batch_stats, plain.batch_stats)
    assert norm(jax.tree.map(jnp.subtract, found.params, plain.params)) > 1e-3


def test_sam_measures_what_is_trained_alone():
    batch, radius = make_batch(), 0.3
    state = make_state(optax.sgd(0.5))
    first = state.params["first"]["kernel"]

    def loss_fn(head):
        return mean_loss({"first": {"kernel": first}, "head": head}, batch)

    head = state.params["head"]
    gradients = jax.grad(loss_fn)(head)
    length = np.sqrt(
        sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients))
    )
    perturbed = jax.tree.map(lambda w, g: w + radius * g / length, head, gradients)
    expected = jax.tree.map(
        lambda w, g: w - 0.5 * g, head, jax.grad(loss_fn)(perturbed)
    )
    found, _ = jitted(sam_radius=radius, frozen_parameters=("^first/",))(
        state, batch, KEY
    )
    chex.assert_trees_all_close(found.params["head"], expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(found.params["first"]["kernel"], first)


def test_no_gradient_perturbs_nothing():
    batch, state = make_batch(), make_state()
    batch["image"] = jnp.zeros_like(batch["image"])
    step = jitted(sam_radius=0.3, frozen_parameters=("bias",))
    found, _ = step(state, batch, KEY)
    chex.assert_trees_all_equal(found.params, state.params)


def test_frozen_parameters_keep_every_bit():
    """Negative zeros included, whatever the optimizer would do."""
    step = jitted(frozen_parameters=("^head/bias$",))
    state = start = make_state(optax.adamw(0.1, weight_decay=0.5))
    for seed in range(20):
        state, _ = step(state, make_batch(seed=seed), KEY)
    bias, expected = (
        np.asarray(each.params["head"]["bias"]).tobytes() for each in (state, start)
    )
    assert bias == expected
    moved = jax.tree.map(lambda old, new: bool(np.any(old != new)), start, state).params
    assert moved["first"]["kernel"]
    assert moved["head"]["kernel"]


def test_averages_follow_weights_and_statistics():
    step, decay = jitted(ema_decay=0.5), 0.5
    state = make_state(averages=True)
    average = jax.tree.map(np.asarray, state.variables)
    for number in range(12):
        state, _ = step(state, make_batch(seed=number), KEY)
        share = min(decay, (1 + number) / (10 + number))
        average = jax.tree.map(
            lambda old, new, share=share: share * old + (1 - share) * np.asarray(new),
            average,
            state.variables,
        )
    chex.assert_trees_all_close(state.average, average, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state.evaluated_variables, state.average)
    chosen = jax.tree.map(jnp.zeros_like, average)
    replaced = state.with_evaluated(chosen)
    chex.assert_trees_all_equal(replaced.evaluated_variables, chosen)
    chex.assert_trees_all_equal(replaced.variables, state.variables)


def narrow_state(optimizer=None, **options):
    """A state of one bfloat16 parameter, and the step that adds 1/128 to it."""

    class Model:
        def init(self, key, images, train):
            return {
                "params": {"w": jnp.ones((4,), jnp.bfloat16)},
                "batch_stats": {"count": jnp.zeros((), jnp.float32)},
            }

        apply = staticmethod(lambda *arguments, **options: None)

    return TrainState.create(
        Model(), optimizer or optax.sgd(-1 / 128), KEY, jnp.zeros(()), **options
    )


def test_an_average_of_narrow_parameters_is_not_narrow():
    state, decay = narrow_state(averages=True), 0.999
    assert state.average["params"]["w"].dtype == jnp.float32
    gradients = {"w": jnp.ones((4,), jnp.bfloat16)}
    expected, steps = 1.0, 100

    @jax.jit
    def step(state):
        return state.apply_gradients(gradients, state.batch_stats, ema_decay=decay)

    for number in range(steps):
        state = step(state)
        share = 1 - min(decay, (1 + number) / (10 + number))
        expected += share * (1 + (number + 1) / 128 - expected)
    assert state.params["w"][0] == 1 + steps / 128
    found = state.average["params"]["w"]
    # In bfloat16 the average stays far behind.
    np.testing.assert_allclose(found - 1, expected - 1, rtol=1e-4)
    evaluated = state.evaluated_variables
    assert evaluated["params"]["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(evaluated["params"]["w"]), found, rtol=4e-3)
    replaced = state.with_evaluated(jax.device_get(evaluated))
    assert replaced.average["params"]["w"].dtype == jnp.float32
    chex.assert_trees_all_equal(replaced.evaluated_variables, evaluated)


def test_a_slow_average_moves_by_its_decay():
    # In float32 1 - 0.999999 is 5 % less than a millionth.
    state = narrow_state(averages=True).replace(step=jnp.int32(10**9))
    state = state.replace(params={"w": jnp.full((4,), 2.0**20, jnp.bfloat16)})
    gradients = {"w": jnp.zeros((4,), jnp.bfloat16)}
    found = state.apply_gradients(gradients, state.batch_stats, ema_decay=0.999999)
    moved = found.average["params"]["w"] - state.average["params"]["w"]
    np.testing.assert_allclose(moved, (2**20 - 1) * 1e-6, rtol=1e-4)


def test_parts_of_a_narrow_gradient_add_up():
    """256 parts of a gradient of which bfloat16 could not add the last half."""

    class Model:
        def init(self, key, images, train):
            return {"params": {"w": jnp.zeros((2,), jnp.bfloat16)}}

        def apply(self, variables, x, *, train, rngs=None, mutable=()):
            w = variables["params"]["w"].astype(jnp.float32)
            return x.reshape(len(x), -1)[:, :1] * w[None], {}

    num_parts = 512
    batch = {
        "image": jnp.full((num_parts, 1, 1, 1), 1.01),
        "label": jnp.zeros((num_parts,), jnp.int32),
    }
    state = TrainState.create(Model(), optax.sgd(1.0), KEY, batch["image"][:1])
    whole, parts = (
        jax.jit(
            functools.partial(train_step, options=StepOptions(accumulate_steps=count))
        )(state, batch, KEY)[0].params["w"]
        for count in (1, num_parts)
    )
    assert parts.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(parts), np.float32(whole), rtol=4e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_perturbation_of_narrow_parameters_has_the_radius(dtype):
    # In float16 the squares overflow, in bfloat16 their sum is rounded to 8 bits.
    params = {"w": jnp.zeros((300,), dtype), "v": jnp.zeros((7,), dtype)}
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, 300.0), params)
    perturbed = _ascend(params, gradients, 1.0)
    norm = np.sqrt(sum(np.sum(np.square(np.float64(v))) for v in perturbed.values()))
    assert norm == pytest.approx(1, rel=3e-3)
    assert perturbed["w"].dtype == dtype


def test_averages_of_what_stands_still_stand_still():
    state = make_state(optax.set_to_zero(), averages=True)
    found, _ = jitted(ema_decay=0.9)(state, make_batch(), KEY)
    chex.assert_trees_all_equal(found.average["params"], state.params)


def test_a_state_without_averages_evaluates_its_weights():
    state = make_state()
    chex.assert_trees_all_equal(state.evaluated_variables, state.variables)
    chosen = jax.tree.map(jnp.zeros_like, state.variables)
    chex.assert_trees_all_equal(state.with_evaluated(chosen).variables, chosen)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_averages_and_their_decay_belong_together(decay):
    state = make_state(averages=decay is None)
    with pytest.raises(ValueError, match=f"ema_decay: got {decay} for a state"):
        train_step(state, make_batch(), KEY, options=StepOptions(ema_decay=decay))


def scaled_state(initial=2.0**10, growth_steps=3, **options):
    return make_state(loss_scale=LossScale.create(initial, growth_steps), **options)


def test_loss_scaling_changes_no_update():
    """A power of two passes through float32 without a rounding."""
    expected, expected_metrics = jitted()(make_state(), make_batch(), KEY)
    found, metrics = jitted()(scaled_state(), make_batch(), KEY)
    chex.assert_trees_all_equal(found.variables, expected.variables)
    assert float(metrics["skipped"]) == 0.0
    chex.assert_trees_all_equal(metrics, expected_metrics)


def test_loss_scaling_saves_gradients_that_float16_loses():
    class Faint(TwoLayers):
        """Logits that hang on the first layer by a thread of 2^-20."""

        def apply(self, variables, images, *, train, rngs=None, mutable=()):
            kernel = variables["params"]["first"]["kernel"].astype(jnp.float16)
            images = images.reshape(images.shape[0], -1).astype(jnp.float16)
            hidden = (images @ kernel)[:, :CLASSES]
            logits = (hidden.astype(jnp.float32) * 2.0**-22).astype(jnp.float32)
            return (logits, {}) if mutable else logits

    def moved(state):
        new_state, _ = jitted()(state, make_batch(), KEY)
        change = new_state.params["first"]["kernel"] - state.params["first"]["kernel"]
        return float(jnp.abs(change).max())

    optimizer = optax.sgd(2.0**22)
    assert moved(make_state(optimizer, Faint())) == 0.0
    scaled = scaled_state(2.0**18, optimizer=optimizer, model=Faint())
    assert moved(scaled) > 0.0


def test_an_overflow_skips_the_update_and_halves_the_scale():
    step = jitted(ema_decay=0.9)
    state = scaled_state(averages=True)
    state, _ = step(state, make_batch(), KEY)
    assert int(state.loss_scale.good_steps) == 1
    batch = make_batch()
    batch["image"] = batch["image"].at[0, 0, 0, 0].set(jnp.inf)
    skipped, metrics = step(state, batch, KEY)
    assert float(metrics["skipped"]) == 1.0
    assert float(skipped.loss_scale.value) == 2.0**9
    assert int(skipped.loss_scale.good_steps) == 0
    # The step counts: the next one has another batch and other keys.
    assert int(skipped.step) == 2
    chex.assert_trees_all_equal(
        skipped.replace(step=0, loss_scale=None), state.replace(step=0, loss_scale=None)
    )


def test_the_scale_doubles_after_good_steps():
    step, state, scales = jitted(), scaled_state(growth_steps=3), []
    for _ in range(7):
        state, _ = step(state, make_batch(), KEY)
        scales.append(float(state.loss_scale.value))
    assert [scale / 2**10 for scale in scales] == [1, 1, 2, 2, 2, 4, 4]


def test_the_scale_stays_in_its_range():
    largest = LossScale.create(2.0**24, 1).after(jnp.bool_(True))
    assert float(largest.value) == 2.0**24
    smallest = LossScale.create(1.0, 1).after(jnp.bool_(False))
    assert float(smallest.value) == 1.0
    for initial, growth_steps in ((0.5, 1), (2.0**25, 1), (1.0, 0), (np.nan, 1)):
        with pytest.raises(ValueError, match="LossScale: got initial"):
            LossScale.create(initial, growth_steps)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_computation_leaves_the_state_wide(dtype):
    loss_scale = LossScale.create(2.0**10, 5) if dtype == jnp.float16 else None
    state = make_state(model=TwoLayers(dtype), loss_scale=loss_scale)
    found, metrics = jitted()(state, make_batch(), KEY)
    expected, expected_metrics = jitted()(make_state(), make_batch(), KEY)
    assert metrics.pop("bad_leaf") == expected_metrics.pop("bad_leaf") == -1
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((found.variables, metrics))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    chex.assert_trees_all_close(found.params, expected.params, atol=0.05)
    chex.assert_trees_all_close(metrics, expected_metrics, atol=0.1)
    assert not np.array_equal(
        found.params["first"]["kernel"], expected.params["first"]["kernel"]
    )


def test_mixed_targets_are_smoothed_like_classes():
    batch = make_batch()
    shares = jax.nn.one_hot(batch["label"], CLASSES) * 0.7 + (
        0.3 * jax.nn.one_hot((batch["label"] + 1) % CLASSES, CLASSES)
    )
    smoothed = 0.9 * shares + 0.1 / CLASSES
    step = jitted(label_smoothing=0.1)
    found, metrics = step(make_state(), {**batch, "label": shares}, KEY)
    expected, expected_metrics = jitted()(
        make_state(), {**batch, "label": smoothed}, KEY
    )
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-5)


def test_the_configuration_reaches_the_step():
    options = {
        "label_smoothing": 0.1,
        "accumulate_steps": 4,
        "sam_radius": 0.05,
        "ema_decay": 0.99,
        "frozen_parameters": ("^first/",),
        "batch_norm": "frozen",
    }
    config = TrainConfig(
        **options, unfreeze_epochs=(("^second/", 1.5),), non_finite="skip"
    )
    expected = {
        **options,
        "unfreeze_steps": (("^second/", 15),),
        "skip_non_finite": True,
    }
    assert step_options(config, steps_per_epoch=10) == StepOptions(**expected)
