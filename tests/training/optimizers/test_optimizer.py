"""Schedules and optimizers against formulas written down independently."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import create_model, trees
from cnn_jax.training import TrainConfig, make_optimizer, make_schedule

STEPS_PER_EPOCH = 10
NUM_STEPS = 100
PEAK = 0.4


def learning_rates(**fields):
    config = TrainConfig(epochs=10, learning_rate=PEAK, **fields)
    schedule = make_schedule(config, STEPS_PER_EPOCH)
    return [float(rate) for rate in jax.jit(jax.vmap(schedule))(jnp.arange(NUM_STEPS))]


def one_cycle(step, rise=0.3):
    """Half a cosine up, half a cosine down, as PyTorch's OneCycleLR documents it."""
    top = rise * NUM_STEPS

    def half_cosine(start, stop, share):
        return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))

    if step <= top:
        return half_cosine(PEAK / 25, PEAK, step / top)
    return half_cosine(PEAK, PEAK / 25 / 1e4, (step - top) / (NUM_STEPS - top))


def step_drops(step):
    return PEAK * 0.2 ** ((step >= 30) + (step >= 60) + (step >= 90))


CASES = {
    "constant": ({}, lambda step: PEAK),
    "cosine": ({}, lambda step: PEAK * math.cos(math.pi * step / 200) ** 2),
    "linear": ({}, lambda step: PEAK * (100 - step) / 100),
    "step": (
        {"step_milestones": (0.3, 0.6, 0.9), "step_factor": 0.2},
        step_drops,
    ),
}


@pytest.mark.parametrize("schedule", CASES)
@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_a_schedule_follows_its_formula(schedule, warmup_epochs):
    fields, formula = CASES[schedule]
    found = learning_rates(schedule=schedule, warmup_epochs=warmup_epochs, **fields)
    warmup = 10 * warmup_epochs
    # The decay takes the steps that the warm-up leaves; the stairs stay where they are.
    stretch = 1 if schedule == "step" else 100 / (100 - warmup)
    offset = 0 if schedule == "step" else warmup
    expected = [
        PEAK * (step + 1) / warmup
        if step < warmup
        else formula((step - offset) * stretch)
        for step in range(NUM_STEPS)
    ]
    if warmup:
        # The rise starts at peak / warmup and meets the peak at its last step.
        expected[:warmup] = np.linspace(PEAK / warmup, PEAK, warmup)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("warmup_epochs", "rise"), [(0, 0.3), (1, 0.1)])
def test_one_cycle_rises_and_falls_along_cosines(warmup_epochs, rise):
    found = learning_rates(schedule="one_cycle", warmup_epochs=warmup_epochs)
    expected = [one_cycle(step, rise) for step in range(NUM_STEPS)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert np.argmax(found) == round(100 * rise)


def written_out(schedule, num_warmup, num_steps, step):
    """The rate that the docstring of `make_schedule` says, in float64."""
    if schedule == "one_cycle":
        rise = num_warmup or 3 * num_steps // 10
        if not rise:
            return PEAK
        start, end, share = PEAK, PEAK / 250_000, (step - rise) / (num_steps - rise)
        if step < rise:
            start, end, share = PEAK / 25, PEAK, step / rise
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
    if step < num_warmup:
        rest = max(num_warmup - 1, 1)
        return PEAK - (PEAK - PEAK / num_warmup) * (num_warmup - 1 - step) / rest
    share = (step - num_warmup) / (num_steps - num_warmup)
    passed = sum(step >= max(1, round(each * num_steps)) for each in (0.5, 0.75))
    return {
        "constant": PEAK,
        "cosine": PEAK * (1 + math.cos(math.pi * share)) / 2,
        "linear": PEAK * (1 - share),
        "step": PEAK * 0.1**passed,
    }[schedule]


def check_whole_steps(schedule, num_warmup, num_steps):
    """Checks the first rate, those around the peak, the last one and the end."""
    config = TrainConfig(
        epochs=1,
        learning_rate=PEAK,
        schedule=schedule,
        warmup_epochs=num_warmup / num_steps,
    )
    peak = num_warmup or (3 * num_steps // 10 if schedule == "one_cycle" else 0)
    around = range(max(peak - 2, 0), min(peak + 3, num_steps))
    steps = sorted({0, *around, num_steps - 1, num_steps})
    found = make_schedule(config, num_steps)(np.asarray(steps, np.int32))
    expected = [written_out(schedule, num_warmup, num_steps, step) for step in steps]
    np.testing.assert_allclose(
        np.broadcast_to(found, len(steps)),
        expected,
        rtol=2e-5,
        atol=2e-7,
        err_msg=f"{num_warmup} of {num_steps} steps",
    )
    if not (schedule == "step" and peak):
        assert max(expected) == pytest.approx(expected[steps.index(peak)])
    assert max(expected) == pytest.approx(PEAK)


SCHEDULES = ("constant", "cosine", "linear", "one_cycle", "step")


def shortened_by_a_share(num_steps):
    """Warm-ups whose share of the run, multiplied back, is rounded down below them."""
    return [w for w in range(1, num_steps) if int(w / num_steps * num_steps) < w]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_stay_whole_in_a_run_of_any_length(schedule):
    for num_steps in range(1, 401):
        check_whole_steps(schedule, 0, num_steps)
        warmups = shortened_by_a_share(num_steps) or range(1, num_steps)
        if warmups:
            check_whole_steps(schedule, warmups[num_steps % len(warmups)], num_steps)


@pytest.mark.nightly
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_stay_whole_after_every_warmup(schedule):
    for num_steps in range(1, 401):
        for num_warmup in range(1, num_steps):
            check_whole_steps(schedule, num_warmup, num_steps)


def test_a_short_warmup_is_a_step():
    config = TrainConfig(epochs=1, learning_rate=PEAK, warmup_epochs=1e-3)
    schedule = make_schedule(config, 20)
    found = [float(schedule(step)) for step in range(3)]
    assert found[:2] == [pytest.approx(PEAK / 25), pytest.approx(PEAK)]
    assert found[2] < PEAK


def test_two_drops_at_one_step_both_count():
    config = TrainConfig(
        epochs=1, schedule="step", learning_rate=1.0, step_milestones=(0.5, 0.51)
    )
    schedule = make_schedule(config, 10)
    assert float(schedule(4)) == pytest.approx(1.0)
    assert float(schedule(5)) == pytest.approx(0.01)


def test_a_run_of_one_step_has_a_rate():
    config = TrainConfig(epochs=1, schedule="one_cycle", learning_rate=PEAK)
    assert float(make_schedule(config, 1)(0)) == pytest.approx(PEAK)


def test_a_warmup_must_leave_a_step():
    config = TrainConfig(epochs=1, warmup_epochs=0.999, schedule="cosine")
    with pytest.raises(ValueError, match="100 of 100 steps"):
        make_schedule(config, 100)


def descend(config, steps=4):
    """Runs the optimizer on a kernel and a bias with gradients that depend on them."""
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params = {"conv": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}}
    opt_state = optimizer.init(params)
    for _ in range(steps):
        gradients = jax.tree.map(lambda w: 0.5 * w + 1, params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return jax.tree.map(np.asarray, params)["conv"]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_decays_through_the_gradient(momentum, nesterov):
    rate, decay = 0.1, 0.05
    config = TrainConfig(
        schedule="constant",
        learning_rate=rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=decay,
    )
    found = descend(config)
    for name, start, decayed in (("kernel", [1.0, -2.0], 1), ("bias", [3.0], 0)):
        w, velocity = np.array(start), 0.0
        for _ in range(4):
            gradient = 0.5 * w + 1 + decayed * decay * w
            velocity = momentum * velocity + gradient
            w = w - rate * (gradient + momentum * velocity if nesterov else velocity)
        np.testing.assert_allclose(found[name], w, rtol=1e-5)


def test_adamw_decays_apart_from_the_gradient():
    rate, decay = 0.1, 0.05
    config = TrainConfig(
        optimizer="adamw",
        schedule="constant",
        learning_rate=rate,
        momentum=0.8,
        nesterov=False,
        weight_decay=decay,
    )
    found = descend(config)
    for name, start, decayed in (("kernel", [1.0, -2.0], 1), ("bias", [3.0], 0)):
        w, first, second = np.array(start), 0.0, 0.0
        for step in range(1, 5):
            gradient = 0.5 * w + 1
            first = 0.8 * first + 0.2 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            ratio = (
                first / (1 - 0.8**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            )
            w = w - rate * (ratio + decayed * decay * w)
        np.testing.assert_allclose(found[name], w, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_norms_and_biases_of_a_real_network(optimizer):
    model = create_model("resnet20")
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    params = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype), variables["params"]
    )
    config = TrainConfig(
        optimizer=optimizer, schedule="constant", learning_rate=0.1, weight_decay=0.5
    )
    optimizer = make_optimizer(config, make_schedule(config, 10))

    @jax.jit
    def update(params):
        nothing = jax.tree.map(jnp.zeros_like, params)
        return optimizer.update(nothing, optimizer.init(params), params)[0]

    updates = update(params)
    moved = {
        name: bool(np.any(np.asarray(change) != 0))
        for name, change in trees.named_leaves(updates).items()
    }
    kinds = {name.rpartition("/")[2] for name in moved}
    assert kinds == {"kernel", "bias", "scale"}
    assert all(is_moved == name.endswith("/kernel") for name, is_moved in moved.items())
    # 19 convolutions and the head.
    assert sum(moved.values()) == 20
