"""Every optimizer, and what stands around it, against formulas in NumPy."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.quick import slow_except

from cnn_jax import trees
from cnn_jax.training import TrainConfig, make_optimizer, make_schedule
from cnn_jax.training.optimizers.roles import ParameterRoles

STEPS = 5
RATE, DECAY, MOMENTUM, SECOND = 0.1, 0.05, 0.8, 0.95

PARAMS = {
    "conv": {
        "kernel": np.random.default_rng(0).normal(size=(2, 2, 2, 3)),
        "bias": np.array([3.0, -1.0, 0.5]),
    },
    "head": {"kernel": np.random.default_rng(1).normal(size=(3, 2))},
}


def gradients_of(params):
    return jax.tree.map(lambda w: 0.5 * w + 1, params)


def configured(**fields):
    return TrainConfig(
        **{
            "schedule": "constant",
            "learning_rate": RATE,
            "momentum": MOMENTUM,
            "nesterov": False,
            "weight_decay": DECAY,
            "epochs": 1,
            **fields,
        }
    )


def descend(config, params=PARAMS, gradient_fn=gradients_of, steps=STEPS):
    """Runs the optimizer; returns the parameters by path, and its last state."""
    optimizer = make_optimizer(config, make_schedule(config, 100))

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(gradient_fn(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    opt_state = optimizer.init(params)
    for _ in range(steps):
        params, opt_state = step(params, opt_state)
    leaves = trees.named_leaves(params)
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}, opt_state


def norm(array):
    return np.sqrt(np.sum(np.square(array)))


def look_ahead(velocity, gradient, nesterov):
    return gradient + MOMENTUM * velocity if nesterov else velocity


def lars(w, decayed, nesterov):
    velocity = np.zeros_like(w)
    for _ in range(STEPS):
        gradient = 0.5 * w + 1
        if decayed:
            gradient = gradient + DECAY * w
            gradient = gradient * 1e-3 * norm(w) / norm(gradient)
        velocity = MOMENTUM * velocity + RATE * gradient
        w = w - look_ahead(velocity, RATE * gradient, nesterov)
    return w


def adam_directions(gradients, nesterov, epsilon):
    """Yields Adam's direction for each gradient that is sent in."""
    first = second = 0.0
    direction = None
    for step in range(1, STEPS + 1):
        gradient = yield direction
        first = MOMENTUM * first + (1 - MOMENTUM) * gradient
        second = SECOND * second + (1 - SECOND) * gradient**2
        corrected = first / (1 - MOMENTUM**step)
        if nesterov:
            corrected = MOMENTUM * first / (1 - MOMENTUM ** (step + 1)) + (
                1 - MOMENTUM
            ) * gradient / (1 - MOMENTUM**step)
        direction = corrected / (np.sqrt(second / (1 - SECOND**step)) + epsilon)
    yield direction


def adam_based(w, decayed, nesterov, *, epsilon, trusts):
    directions = adam_directions(w, nesterov, epsilon)
    next(directions)
    for _ in range(STEPS):
        direction = directions.send(0.5 * w + 1)
        if decayed:
            direction = direction + DECAY * w
            if trusts:
                direction = direction * norm(w) / norm(direction)
        w = w - RATE * direction
    return w


def adamw(w, decayed, nesterov):
    return adam_based(w, decayed, nesterov, epsilon=1e-3, trusts=False)


def lamb(w, decayed, nesterov):
    return adam_based(w, decayed, nesterov, epsilon=1e-3, trusts=True)


def rmsprop(w, decayed, nesterov):
    """TensorFlow 1's: ms from 1, epsilon inside the root, the rate in the momentum."""
    mean_square, velocity = np.ones_like(w), np.zeros_like(w)
    for _ in range(STEPS):
        gradient = 0.5 * w + 1 + decayed * DECAY * w
        mean_square = SECOND * mean_square + (1 - SECOND) * gradient**2
        scaled = RATE * gradient / np.sqrt(mean_square + 1e-3)
        velocity = MOMENTUM * velocity + scaled
        w = w - look_ahead(velocity, scaled, nesterov)
    return w


def sgd(w, decayed, nesterov):
    velocity = np.zeros_like(w)
    for _ in range(STEPS):
        gradient = 0.5 * w + 1 + decayed * DECAY * w
        velocity = MOMENTUM * velocity + gradient
        w = w - RATE * look_ahead(velocity, gradient, nesterov)
    return w


def newton_schulz(matrix):
    """Five steps of the quintic that lifts all singular values towards 1."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square @ square @ x
    return x.T if is_tall else x


def muon(w, decayed, nesterov):
    if not decayed:
        return adam_based(w, False, nesterov, epsilon=1e-3, trusts=False)
    momentum = np.zeros_like(w)
    for step in range(1, STEPS + 1):
        gradient = 0.5 * w + 1
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        direction = momentum / (1 - MOMENTUM**step)
        if nesterov:
            direction = MOMENTUM * momentum / (1 - MOMENTUM ** (step + 1)) + (
                1 - MOMENTUM
            ) * gradient / (1 - MOMENTUM**step)
        matrix = direction.reshape(-1, w.shape[-1])
        update = newton_schulz(matrix).reshape(w.shape)
        update = 0.2 * np.sqrt(max(matrix.shape)) * update
        w = w - RATE * (update + DECAY * w)
    return w


OPTIMIZERS = {each.__name__: each for each in (sgd, adamw, lamb, lars, rmsprop, muon)}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_follows_its_formula(name, nesterov):
    config = configured(
        optimizer=name, nesterov=nesterov, second_moment_decay=SECOND, epsilon=1e-3
    )
    found, _ = descend(config)
    for path, start in trees.named_leaves(PARAMS).items():
        expected = OPTIMIZERS[name](start, path.endswith("kernel"), nesterov)
        # Muon's steps magnify roundings of small singular values.
        rtol = 2e-4 if name == "muon" else 2e-5
        np.testing.assert_allclose(found[path], expected, rtol=rtol, atol=rtol)


def test_the_defaults_are_those_of_the_papers():
    """One step from the first moment's start, where they show."""
    tiny = {"kernel": np.array([[1e-3, 1.0]])}
    gradient = 0.5 * tiny["kernel"] + 1

    def moved(**fields):
        found, _ = descend(
            configured(weight_decay=0.0, momentum=0.0, **fields), tiny, steps=1
        )
        return (tiny["kernel"] - found["kernel"]) / RATE

    # RMSProp: 0.9, 1e-3, and a mean square that starts at 1.
    expected = gradient / np.sqrt(0.9 + 0.1 * gradient**2 + 1e-3)
    np.testing.assert_allclose(moved(optimizer="rmsprop"), expected, rtol=1e-5)
    np.testing.assert_allclose(moved(optimizer="adamw"), 1.0, rtol=1e-5)


def test_muon_leaves_vectors_depthwise_filters_and_the_unmatched_to_adamw():
    generator = np.random.default_rng(0)
    params = {
        "depthwise": {"kernel": generator.normal(size=(3, 3, 1, 4))},
        "conv": {"kernel": generator.normal(size=(3, 3, 2, 4))},
        "head": {"kernel": generator.normal(size=(4, 4)), "bias": np.ones(4)},
    }
    fields = {"second_moment_decay": SECOND, "epsilon": 1e-3}
    by_muon, _ = descend(
        configured(
            optimizer="muon", muon_parameters=(r"(conv|wise)/kernel",), **fields
        ),
        params,
    )
    by_adamw, _ = descend(configured(optimizer="adamw", **fields), params)
    same = {path for path in by_muon if np.array_equal(by_muon[path], by_adamw[path])}
    assert same == {"depthwise/kernel", "head/kernel", "head/bias"}


def constant_gradients(params):
    return jax.tree.map(jnp.ones_like, params)


@pytest.mark.parametrize("name", slow_except(["sgd"], ["sgd", "rmsprop", "lamb"]))
def test_a_group_moves_by_a_factor_of_the_learning_rate(name):
    """Decay included: the group's path is that of a run at its own learning rate."""
    config = configured(optimizer=name)
    groups = (("head/", 3.0), ("kernel", 0.5))
    found, _ = descend(dataclasses.replace(config, learning_rate_groups=groups))
    # The first pattern that matches counts: the head is a kernel, too.
    factors = {"conv/kernel": 0.5, "conv/bias": 1.0, "head/kernel": 3.0}
    for path, factor in factors.items():
        alone, _ = descend(dataclasses.replace(config, learning_rate=RATE * factor))
        np.testing.assert_allclose(found[path], alone[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_have_no_state_and_never_move(name):
    config = configured(optimizer=name, weight_decay=0.5)
    frozen = dataclasses.replace(config, frozen_parameters=("^conv/",))

    def broken_gradients(params):
        lost = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params["conv"])
        return {**gradients_of(params), "conv": lost}

    found, opt_state = descend(frozen, gradient_fn=broken_gradients, steps=20)
    for path in ("conv/kernel", "conv/bias"):
        start = np.float32(trees.named_leaves(PARAMS)[path])
        assert found[path].tobytes() == start.tobytes()
    assert not [path for path in trees.named_leaves(opt_state) if "conv" in path]
    # What is trained does not notice.
    alone, _ = descend(config, {"head": PARAMS["head"]}, steps=20)
    np.testing.assert_allclose(found["head/kernel"], alone["head/kernel"], rtol=1e-5)


def test_clipping_scales_all_gradients_by_one_factor():
    """In plain descent, whose decay comes behind the clipping."""
    config = configured(momentum=0.0, maximum_gradient_norm=0.5)
    found, _ = descend(config, steps=1)
    leaves = trees.named_leaves(PARAMS)
    gradients = {path: 0.5 * leaf + 1 for path, leaf in leaves.items()}
    total = np.sqrt(sum(norm(each) ** 2 for each in gradients.values()))
    assert total > 0.5
    for path, start in leaves.items():
        decay = DECAY * start if path.endswith("kernel") else 0
        expected = start - RATE * (gradients[path] * 0.5 / total + decay)
        np.testing.assert_allclose(found[path], expected, rtol=1e-5)
    unclipped, _ = descend(
        dataclasses.replace(config, maximum_gradient_norm=2 * total), steps=1
    )
    expected = leaves["conv/bias"] - RATE * gradients["conv/bias"]
    np.testing.assert_allclose(unclipped["conv/bias"], expected, rtol=1e-5)


def test_frozen_gradients_do_not_count_in_the_norm():
    config = configured(
        momentum=0.0, maximum_gradient_norm=0.5, frozen_parameters=("^conv/",)
    )
    found, _ = descend(config, steps=1)
    alone, _ = descend(
        dataclasses.replace(config, frozen_parameters=()),
        {"head": PARAMS["head"]},
        steps=1,
    )
    np.testing.assert_allclose(found["head/kernel"], alone["head/kernel"], rtol=1e-5)


def test_patterns_that_select_nothing_are_listed_together():
    config = configured(
        optimizer="lamb",
        decayed_parameters=("kernels$",),
        frozen_parameters=("^conv/", "^backbone/"),
        learning_rate_groups=(("^tail/", 2.0),),
    )
    optimizer = make_optimizer(config, make_schedule(config, 10))
    with pytest.raises(ValueError) as error:
        optimizer.init(PARAMS)
    lines = str(error.value).splitlines()[1:]
    for line, words in zip(
        lines,
        (
            ("decayed_parameters", "'kernels$'"),
            ("frozen_parameters", "'^backbone/'"),
            ("learning_rate_groups", "'^tail/'"),
        ),
        strict=True,
    ):
        assert all(word in line for word in words)


def test_a_pattern_may_match_frozen_parameters_alone():
    config = configured(
        frozen_parameters=("^conv/",), decayed_parameters=("^conv/kernel",)
    )
    found, _ = descend(config, steps=1)
    assert not np.array_equal(
        found["head/kernel"], np.float32(PARAMS["head"]["kernel"])
    )


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adamw", "lamb", "lars", "rmsprop", "muon"]
)
def test_narrow_parameters_are_moved_like_wide_ones(optimizer):
    """Moments and norms are summed in float32 for bfloat16 parameters too."""
    config = configured(
        optimizer=optimizer,
        nesterov=True,
        l2_sp=0.1,
        maximum_gradient_norm=0.5,
        momentum=0.99,
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    gradients = [
        jax.tree.map(lambda w, n=n: w * 2.0 ** -(n % 3), params) for n in range(9)
    ]

    def run(dtype):
        made = make_optimizer(
            config,
            make_schedule(config, 100),
            roles=ParameterRoles(head=("head/kernel",)),
        )
        cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(dtype))
        state, found = made.init(cast(params)), []
        update = jax.jit(made.update)
        for each in gradients:
            updates, state = update(cast(each), state, cast(params))
            found.append(updates)
        return found, state

    narrow, wide = run(jnp.bfloat16), run(jnp.float32)
    chex.assert_trees_all_equal_dtypes(narrow, wide)
    chex.assert_trees_all_close(narrow, wide, rtol=1e-5, atol=1e-7)
