"""Storage without renames or locks, such as `gs://`: the manifest commits."""

import jax.numpy as jnp
import pytest

from cnn_jax.checkpoint import Checkpointer, SaveError, files, points


@pytest.fixture(autouse=True)
def nothing_is_local(monkeypatch):
    """A local directory stands in for a bucket, to which no test has access."""
    monkeypatch.setattr(files, "is_local", lambda path: False)


def fail_at(monkeypatch, point):
    def fail(reached):
        if reached == point:
            raise RuntimeError("the network is down")

    monkeypatch.setattr(points, "on_reach", fail)


def test_saved_restored_and_removed(tmp_path):
    tree = {"x": jnp.arange(4.0)}
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, tree, {"saved": step})
        assert checkpointer.restore(tree).metadata == {"saved": 2}
        with pytest.raises(ValueError, match="got 2, which already exists"):
            checkpointer.save(2, tree, {})
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_step_without_a_manifest_is_replaced(tmp_path):
    tree = {"x": jnp.arange(4.0)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, tree, {})
        checkpointer.wait()
        (tmp_path / "1" / "MANIFEST").unlink()
        assert checkpointer.steps == ()
        checkpointer.save(1, tree, {"again": True})
        assert checkpointer.metadata() == {"again": True}


def test_a_damaged_step_is_not_replaced(tmp_path):
    tree = {"x": jnp.arange(4.0)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, tree, {})
        checkpointer.wait()
        (tmp_path / "1" / "_METADATA").unlink()
        with pytest.raises(SaveError, match="1 is damaged and blocks the save"):
            checkpointer.save(1, tree, {})
        assert (tmp_path / "1" / "MANIFEST").exists()


def test_a_step_that_fails_is_discarded(tmp_path, monkeypatch):
    tree = {"x": jnp.arange(4.0)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, tree, {})
        checkpointer.wait()
        fail_at(monkeypatch, "arrays_committed")
        checkpointer.save(2, tree, {})
        with pytest.raises(SaveError, match="the network is down"):
            checkpointer.wait()
        assert checkpointer.steps == (1,)


def test_a_bucket_stays_one():
    assert str(files.as_path("gs://bucket/run")) == "gs://bucket/run"


def test_a_directory_of_a_bucket_is_not_there_until_something_is_in_it(
    tmp_path, monkeypatch
):
    tree = {"x": jnp.arange(4.0)}
    with monkeypatch.context() as patch:
        patch.setattr(type(files.as_path(tmp_path)), "mkdir", lambda *_, **__: None)
        checkpointer = Checkpointer(tmp_path / "run")
    with checkpointer:
        assert checkpointer.steps == ()
        assert not (tmp_path / "run").exists()
        checkpointer.save(1, tree, {"saved": 1})
        assert checkpointer.restore(tree).metadata == {"saved": 1}
