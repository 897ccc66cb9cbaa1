"""Killed anywhere in a save, a run leaves its newest whole checkpoint, bit for bit."""

import random
import signal

import pytest
from helpers.quick import nightly_except

from cnn_jax import trees
from cnn_jax.checkpoint import Checkpointer, points
from faults.saver import KEEP, KEEP_EVERY, tree_at

# Where the save of step 4 is killed -> the steps that then count, and the leftover. The
# metric falls, so that step 1 is the best and stays; step 2 has to go.
TEMPORARY = "4.unfinished.orbax-checkpoint-tmp"
KILLED_IN_STEP_4 = {
    "save_begins": ((1, 2, 3), None),
    "arrays_half_written": ((1, 2, 3), TEMPORARY),
    "arrays_written": ((1, 2, 3), TEMPORARY),
    "arrays_committed": ((1, 2, 3), "4.unfinished"),
    "manifest_written": ((1, 2, 3), "4.unfinished"),
    "step_committed": ((1, 2, 3, 4), None),
    "step_set_aside": ((1, 3, 4), "2.removed"),
    "step_half_removed": ((1, 3, 4), "2.removed"),
}


def names_in(directory):
    return {path.name for path in directory.iterdir()} - {"lock"}


def restore_newest(directory, size=1000):
    with Checkpointer(directory, keep=KEEP, keep_every=KEEP_EVERY) as checkpointer:
        found = checkpointer.restore(tree_at(0, size))
        assert checkpointer.latest_step == found.step
        assert names_in(directory) == {str(step) for step in checkpointer.steps}
    assert found.metadata == {"saved": found.step}
    assert trees.digest(found.tree) == trees.digest(tree_at(found.step, size))
    return found.step


def test_every_point_is_killed_at():
    assert set(KILLED_IN_STEP_4) == {*points.POINTS, "arrays_half_written"}


@pytest.mark.slow
@pytest.mark.parametrize("point", KILLED_IN_STEP_4)
def test_killed_at_a_point(tmp_path, saver, point):
    directory, log = tmp_path / "checkpoints", tmp_path / "log"
    plan = {"directory": str(directory), "log": str(log), "size": 50_000}
    status = saver(**plan, first=1, last=9, point=point, step=4)
    assert status == -signal.SIGKILL
    assert log.read_text().split() == ["1", "2", "3"]
    expected, leftover = KILLED_IN_STEP_4[point]
    left = {leftover} - {None}
    assert names_in(directory) == {*map(str, expected), *left}
    with Checkpointer(directory, read_only=True) as beside:
        assert beside.steps == expected
    assert restore_newest(directory, 50_000) == expected[-1]
    # What is left is no hindrance to going on.
    assert saver(**plan, first=expected[-1] + 1, last=6) == 0
    assert restore_newest(directory, 50_000) == 6
    assert names_in(directory) == {"1", "5", "6"}


def kill_at_random(saver, tmp_path, seed, runs, last):
    """Kills a run until it is through; returns how many kills it took."""
    directory, log = tmp_path / "checkpoints", tmp_path / "log"
    generator, newest = random.Random(seed), 0
    for kills in range(runs):
        log.write_text("")
        status = saver(
            directory=str(directory),
            log=str(log),
            first=newest + 1,
            last=last,
            seconds=generator.uniform(0.2, 0.9),
        )
        written = [newest, *map(int, log.read_text().split())]
        if not directory.exists():
            continue
        with Checkpointer(directory, read_only=True) as beside:
            newest = beside.latest_step or 0
        # Between a step's rename and its line in the log a kill loses the line.
        assert newest in (written[-1], written[-1] + 1)
        if newest:
            assert restore_newest(directory) == newest
        if status == 0:
            return kills
        assert status == -signal.SIGKILL
    return runs


def test_killed_at_random_times(tmp_path, saver):
    assert kill_at_random(saver, tmp_path, seed=0, runs=3, last=1000) == 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", nightly_except([0], [0, 1]))
def test_killed_at_many_random_times(tmp_path, saver, seed):
    assert kill_at_random(saver, tmp_path, seed=seed, runs=40, last=10_000) == 40
