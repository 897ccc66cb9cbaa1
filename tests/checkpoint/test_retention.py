"""The choice of the checkpoints to keep."""

import math

import jax.numpy as jnp
import pytest

from cnn_jax.checkpoint import Checkpointer
from cnn_jax.checkpoint.retention import best_step, steps_to_keep

METRICS = {1: 0.1, 2: 0.7, 3: None, 4: 0.7, 5: 0.2, 6: None}


@pytest.mark.parametrize(
    ("newest", "every", "kept"),
    [
        (1, None, {2, 6}),
        (2, None, {2, 5, 6}),
        (1, 3, {2, 3, 6}),
        (1, 1, set(METRICS)),
        (9, None, set(METRICS)),
    ],
)
def test_newest_best_and_every(newest, every, kept):
    assert steps_to_keep(METRICS, newest=newest, every=every) == kept
    backwards = dict(reversed(METRICS.items()))
    assert steps_to_keep(backwards, newest=newest, every=every) == kept


def test_what_a_fallback_needs_stays():
    metrics = {1: 0.3, 2: 0.5, 3: 0.4, 4: 0.9, 5: 0.1}
    # Step 3 is gone back to if 4, the new best, is damaged; step 2 was the best then.
    assert steps_to_keep(metrics, newest=3, every=None) == {2, 3, 4, 5}
    assert steps_to_keep(metrics, newest=2, every=None) == {4, 5}


def test_without_steps_or_metrics():
    assert steps_to_keep({}, newest=1, every=2) == set()
    assert best_step({}) is None
    assert best_step({1: None}) is None
    assert best_step({1: -3.0, 2: -4.0}) == 1


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_the_best(tmp_path, metric):
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(1, {"x": jnp.zeros(2)}, {}, metric=metric)
        assert checkpointer.best_step is None
        checkpointer.save(2, {"x": jnp.zeros(2)}, {}, metric=-5.0)
        checkpointer.save(3, {"x": jnp.zeros(2)}, {}, metric=metric)
        assert checkpointer.best_step == 2
        assert checkpointer.steps == (2, 3)


def test_every_kth_step_stays(tmp_path):
    with Checkpointer(tmp_path, keep=1, keep_every=2) as checkpointer:
        for step in range(6):
            checkpointer.save(step, {"x": jnp.zeros(2)}, {})
        assert checkpointer.steps == (0, 2, 4, 5)


@pytest.mark.parametrize("name", ["keep", "keep_every"])
def test_counts_must_be_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected at least 1"):
        Checkpointer(tmp_path, **{name: 0})
