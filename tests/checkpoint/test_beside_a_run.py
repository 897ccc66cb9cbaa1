"""Reading beside a run that removes what is read, and while the clock is set."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.runs import make_run, scaled

import cnn_jax
from cnn_jax.checkpoint import Checkpointer, RemovedError, manifest
from cnn_jax.layers import abstract_variables
from cnn_jax.pretrained import load_pretrained
from cnn_jax.pretrained.files import describe_own

ROOT = pathlib.Path(__file__).parents[2]
TREE = {"a": jnp.ones((4, 4)), "b": jnp.zeros(3)}


@pytest.fixture
def run(tmp_path):
    """A run that keeps its newest checkpoint only, and has saved the first."""
    with Checkpointer(tmp_path / "checkpoints", keep=1) as checkpointer:
        checkpointer.save(1, TREE, {"at": 1})
        checkpointer.wait()
        yield checkpointer


def goes_on(monkeypatch, run, function, times=1):
    """Has a run save its next checkpoint when a reader calls a function."""
    original, done = getattr(manifest, function), []

    def save_and_call(directory, *arguments):
        is_reader = "unfinished" not in directory.name and not run._thread
        if is_reader and len(done) < times:
            done.append(None)
            monkeypatch.setattr(manifest, function, original)
            step = run.latest_step + 1
            run.save(step, TREE, {"at": step})
            run.wait()
            monkeypatch.setattr(manifest, function, save_and_call)
        return original(directory, *arguments)

    monkeypatch.setattr(manifest, function, save_and_call)


READS = {
    "restore": lambda reader: reader.restore(TREE).step,
    "a part": lambda reader: reader.restore({"a": TREE["a"]}, partial=True).step,
    "describe": lambda reader: reader.describe().step,
    "metadata": lambda reader: reader.metadata()["at"],
}


@pytest.mark.parametrize("function", ["read", "check_content"])
@pytest.mark.parametrize("name", READS)
def test_the_newest_is_read_if_another_is_removed(monkeypatch, run, name, function):
    with Checkpointer(run.directory, read_only=True) as reader:
        goes_on(monkeypatch, run, function, times=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert READS[name](reader) == 3


def test_the_arrays_are_removed_behind_the_check(monkeypatch, run):
    with Checkpointer(run.directory, read_only=True) as reader:
        restore, calls = reader._orbax.restore, []

        def save_and_restore(*arguments):
            calls.append(arguments)
            if len(calls) == 1:
                run.save(2, TREE, {"at": 2})
                run.wait()
            return restore(*arguments)

        monkeypatch.setattr(reader._orbax, "restore", save_and_restore)
        assert reader.restore(TREE).step == 2


def test_a_named_step_is_said_to_be_removed(monkeypatch, run):
    with Checkpointer(run.directory, read_only=True) as reader:
        goes_on(monkeypatch, run, "check_content")
        with pytest.raises(RemovedError, match=r"/1: .* removed while it was read"):
            reader.restore(TREE, step=1)


def test_a_run_that_always_removes_what_is_read_is_given_up(monkeypatch, run):
    with Checkpointer(run.directory, read_only=True) as reader:
        goes_on(monkeypatch, run, "read", times=1000)
        with pytest.raises(RemovedError, match="removed while it was read"):
            reader.describe()


def test_the_steps_are_those_that_are_there_together(monkeypatch, run):
    with Checkpointer(run.directory, read_only=True) as reader:
        goes_on(monkeypatch, run, "read")
        assert reader.steps == (2,)


def test_weights_of_a_run_that_goes_on(tmp_path, monkeypatch):
    model = cnn_jax.create_model("lenet5", num_classes=10)
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), "float32")
    variables = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype), abstract_variables(model, image)
    )
    run_dir = make_run(tmp_path / "run", variables, steps=[1])
    describe, done = Checkpointer.describe, []
    with Checkpointer(run_dir / "checkpoints", keep=1) as run:
        metadata = run.metadata()

        def describe_and_save(self, step=None):
            found = describe(self, step)
            if len(done) < 3:
                done.append(None)
                saved = scaled({"state": variables}, found.step + 1)
                run.save(found.step + 1, saved, metadata)
                run.wait()
            return found

        monkeypatch.setattr(Checkpointer, "describe", describe_and_save)
        assert describe_own(run_dir).model == "lenet5"
        loaded, report = load_pretrained("lenet5", run_dir)
    assert len(done) == 3
    assert "step 4" in str(report)
    assert all((leaf == 4).all() for leaf in jax.tree.leaves(loaded))


CLOCK = """
import sys, threading, time
offset, real = 0.0, time.time
time.time = lambda: real() + offset
import jax
from cnn_jax.checkpoint import Checkpointer

def set_clock():
    global offset
    while True:
        time.sleep(0.005)
        offset += float(sys.argv[2])

threading.Thread(target=set_clock, daemon=True).start()
tree = {"a": jax.numpy.ones((300, 300))}
with Checkpointer(sys.argv[1]) as checkpointer:
    for step in range(1, 4):
        checkpointer.save(step, tree, {})
        checkpointer.wait()
    checkpointer.restore(tree)
    checkpointer.restore({"a": tree["a"]}, partial=True)
    print(checkpointer.steps)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3600, -3600, 10**6])
def test_a_clock_that_is_set_ends_no_save(tmp_path, seconds):
    done = subprocess.run(
        [sys.executable, "-c", CLOCK, tmp_path / "checkpoints", str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "(2, 3)\n"), done.stderr
