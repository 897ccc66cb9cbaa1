"""Checkpoints: what is saved comes back bit for bit, or with a sentence why not."""

import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cnn_jax import sharding, trees
from cnn_jax.checkpoint import (
    Checkpointer,
    CheckpointError,
    DamagedCheckpointWarning,
    ResumeRefusedError,
    SaveError,
    check_unchanged,
    files,
)
from cnn_jax.checkpoint.checkpointer import _is_worth_saying


def make_tree(seed=0):
    values = jax.random.normal(jax.random.key(seed), (64, 32))
    return {
        "layer/with slash": {"kernel": values, "half": values[0].astype(jnp.bfloat16)},
        "moments": (values[:, :2], jnp.int32(7)),
        "odd": jnp.array([-0.0, jnp.nan, jnp.inf]),
    }


def damage(step):
    """Changes one bit of a checkpoint's largest file."""
    paths = [step / name for name in files.all_files(step)]
    largest = max(paths, key=files.size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.fixture
def checkpointer(tmp_path):
    with Checkpointer(tmp_path / "checkpoints", keep=2) as opened:
        yield opened


def test_a_tree_comes_back_bit_for_bit_with_its_metadata(checkpointer):
    tree = make_tree()
    metadata = {"config": {"rate": 0.1, "name": "é"}, "history": [{"loss": 1e-30}]}
    checkpointer.save(3, tree, metadata)
    found = checkpointer.restore(make_tree(seed=1))
    assert found.step == 3
    assert found.metadata == checkpointer.metadata() == metadata
    assert jax.tree.structure(found.tree) == jax.tree.structure(tree)
    assert trees.digest(found.tree) == trees.digest(tree)


def test_arrays_lie_where_the_template_says(checkpointer):
    mesh = sharding.make_mesh()
    split, copied = sharding.batch_sharded(mesh), sharding.replicated(mesh)
    tree = {"x": jax.device_put(jnp.arange(16.0), split)}
    checkpointer.save(1, tree, {})
    for where in (
        split,
        copied,
        sharding.replicated(sharding.make_mesh(mesh.devices[:2])),
    ):
        template = {"x": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=where)}
        found = checkpointer.restore(template).tree["x"]
        assert found.sharding == where
        np.testing.assert_array_equal(found, np.arange(16.0))


def test_arrays_may_be_donated_while_they_are_being_saved(checkpointer):
    step = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    x = jax.random.normal(jax.random.key(0), (2000, 1000))
    expected = np.array(x)
    checkpointer.save(1, {"x": x}, {})
    for _ in range(5):
        x = step(x)
    found = checkpointer.restore({"x": x})
    np.testing.assert_array_equal(found.tree["x"], expected)


def test_the_newest_and_the_best_are_kept(tmp_path):
    metrics = {1: 0.1, 2: 0.7, 3: None, 4: 0.7, 5: 0.2, 6: None}
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step, metric in metrics.items():
            checkpointer.save(step, {"x": jnp.float32(step)}, {}, metric=metric)
        assert checkpointer.steps == (2, 5, 6)
        assert checkpointer.latest_step == 6
        assert checkpointer.best_step == 2
    with Checkpointer(tmp_path, keep=1) as reopened:
        assert reopened.best_step == 2
        reopened.save(7, {"x": jnp.float32(7)}, {}, metric=0.8)
        assert reopened.steps == (7,)


def test_without_a_metric_there_is_no_best(checkpointer):
    assert checkpointer.steps == ()
    assert checkpointer.latest_step is None
    checkpointer.save(1, {"x": jnp.zeros(2)}, {})
    assert checkpointer.best_step is None


def test_what_does_not_exist_is_named(checkpointer):
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found none"):
        checkpointer.restore({"x": jnp.zeros(2)})
    checkpointer.save(1, {"x": jnp.zeros(2)}, {})
    with pytest.raises(FileNotFoundError, match=r"step 4, found the steps \[1\]"):
        checkpointer.restore({"x": jnp.zeros(2)}, step=4)
    with pytest.raises(ValueError, match="already exists"):
        checkpointer.save(1, {"x": jnp.zeros(2)}, {})


def test_every_leaf_that_does_not_fit_is_listed(checkpointer):
    checkpointer.save(1, {"a": jnp.zeros(2), "b": jnp.zeros(3), "c": jnp.zeros(1)}, {})
    template = {"a": jnp.zeros(4), "b": jnp.zeros(3, jnp.bfloat16), "d": jnp.zeros(1)}
    with pytest.raises(CheckpointError) as error:
        checkpointer.restore(template)
    assert str(error.value).splitlines()[1:] == [
        "  a: saved 'float32[2]', now 'float32[4]'",
        "  b: saved 'float32[3]', now 'bfloat16[3]'",
        "  c: saved 'float32[1]', now absent",
        "  d: saved absent, now 'float32[1]'",
    ]


def test_a_checkpoint_describes_itself_without_being_restored(checkpointer):
    checkpointer.save(3, make_tree(), {"a": 1})
    checkpointer.save(5, make_tree(), {"a": 2})
    found = checkpointer.describe()
    assert (found.step, found.metadata) == (5, {"a": 2})
    assert found.leaves == trees.leaf_specs(make_tree())
    assert checkpointer.describe(3).metadata == {"a": 1}
    damage(checkpointer.directory / "5")
    with pytest.raises(CheckpointError, match="5: the checkpoint is damaged"):
        checkpointer.describe(5)
    with pytest.warns(DamagedCheckpointWarning, match="Step 3 is used") as caught:
        assert checkpointer.describe().step == 3
    assert caught[0].filename == __file__


class TestPartialRestores:
    """Some leaves of a tree, the others left where they are."""

    def part(self, tree):
        return {"layer/with slash": tree["layer/with slash"], "odd": tree["odd"]}

    def test_come_back_bit_for_bit(self, checkpointer):
        checkpointer.save(3, make_tree(), {"a": 1})
        found = checkpointer.restore(self.part(make_tree(seed=1)), partial=True)
        assert (found.step, found.metadata) == (3, {"a": 1})
        assert trees.digest(found.tree) == trees.digest(self.part(make_tree()))

    def test_lie_where_the_template_says(self, checkpointer):
        split = sharding.batch_sharded(sharding.make_mesh())
        checkpointer.save(1, {"x": jnp.arange(16.0), "y": jnp.zeros(2)}, {})
        template = {"x": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=split)}
        found = checkpointer.restore(template, partial=True).tree["x"]
        assert found.sharding == split
        np.testing.assert_array_equal(found, np.arange(16.0))

    def test_must_be_asked_for(self, checkpointer):
        checkpointer.save(3, make_tree(), {})
        with pytest.raises(CheckpointError, match=r"moments/0: saved .*, now absent"):
            checkpointer.restore(self.part(make_tree()))

    def test_fit_as_far_as_they_go(self, checkpointer):
        checkpointer.save(1, {"a": jnp.zeros(2), "b": jnp.zeros(3)}, {})
        template = {"a": jnp.zeros(4), "c": jnp.zeros(1)}
        with pytest.raises(CheckpointError) as error:
            checkpointer.restore(template, partial=True)
        assert str(error.value).splitlines()[1:] == [
            "  a: saved 'float32[2]', now 'float32[4]'",
            "  c: saved absent, now 'float32[1]'",
        ]

    def test_verify_every_file(self, checkpointer):
        checkpointer.save(1, {"a": jnp.zeros(2), "b": jnp.arange(1000.0)}, {})
        checkpointer.wait()
        damage(checkpointer.directory / "1")
        with pytest.raises(CheckpointError, match="sha256 differs"):
            checkpointer.restore({"a": jnp.zeros(2)}, step=1, partial=True)

    def test_of_all_leaves_verify_the_digest(self, checkpointer, monkeypatch):
        with monkeypatch.context() as patched:
            patched.setattr(trees, "digest", lambda tree: "another")
            checkpointer.save(1, {"a": jnp.zeros(2)}, {})
        with pytest.raises(CheckpointError, match="not those that were saved"):
            checkpointer.restore({"a": jnp.zeros(2)}, step=1, partial=True)

    def test_leave_the_directory_as_it_is(self, tmp_path):
        with Checkpointer(tmp_path / "there") as checkpointer:
            checkpointer.save(1, {"a": jnp.zeros(2), "b": jnp.zeros(3)}, {})
        paths = [tmp_path / "there", *sorted((tmp_path / "there").rglob("*"))]
        before = [(path, path.stat().st_mtime_ns) for path in paths]
        with Checkpointer(tmp_path / "there", read_only=True) as checkpointer:
            checkpointer.restore({"a": jnp.zeros(2)}, partial=True)
        paths = [tmp_path / "there", *sorted((tmp_path / "there").rglob("*"))]
        assert [(path, path.stat().st_mtime_ns) for path in paths] == before


def test_arrays_that_read_well_but_differ_are_never_loaded(tmp_path, monkeypatch):
    tree = {"x": jax.random.normal(jax.random.key(0), (50, 50))}
    with Checkpointer(tmp_path) as checkpointer:
        with monkeypatch.context() as patched:
            patched.setattr(trees, "digest", lambda _: "0" * 64)
            checkpointer.save(1, tree, {})
        with pytest.raises(CheckpointError, match="not those that were saved"):
            checkpointer.restore(tree)


def test_an_unfinished_save_is_cleared_away_and_never_counts(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"x": jnp.zeros(2)}, {})
    leftover = tmp_path / "2.orbax-checkpoint-tmp-123"
    (leftover / "arrays").mkdir(parents=True)
    (leftover / "arrays" / "part").write_bytes(b"half")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps == (1,)
        checkpointer.save(2, {"x": jnp.ones(2)}, {})
        assert checkpointer.steps == (1, 2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "1",
        "2",
    ]


@pytest.mark.parametrize(
    "notice",
    [
        lambda checkpointer: checkpointer.save(3, {"x": jnp.ones(2)}, {}),
        lambda checkpointer: checkpointer.restore({"x": jnp.ones(2)}),
        lambda checkpointer: checkpointer.latest_step,
        lambda checkpointer: checkpointer.best_step,
        Checkpointer.wait,
        Checkpointer.close,
    ],
    ids=["save", "restore", "latest_step", "best_step", "wait", "close"],
)
def test_a_save_that_fails_in_the_background_is_raised(tmp_path, monkeypatch, notice):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"x": jnp.zeros(2)}, {})
    checkpointer.wait()

    def fail(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ocp.StandardCheckpointHandler, "finalize", fail)
        checkpointer.save(2, {"x": jnp.ones(2)}, {})
        with pytest.raises(SaveError, match=f"{tmp_path}/2: .*no space left"):
            notice(checkpointer)
    # It is reported once, and blocks nothing.
    checkpointer.close()
    with Checkpointer(tmp_path) as reopened:
        assert reopened.steps == (1,)
        reopened.save(2, {"x": jnp.ones(2)}, {})
        assert reopened.steps == (1, 2)


def test_what_stands_beside_a_tree_can_be_amended(checkpointer, monkeypatch):
    for step in (1, 2, 3):
        checkpointer.save(step, make_tree(step), {"saved": step})
    checkpointer.amend(2, {"known": "later"}, metric=0.5)
    assert checkpointer.best_step == 2
    found = checkpointer.restore(make_tree(), step=2)
    assert found.metadata == {"known": "later"}
    assert trees.digest(found.tree) == trees.digest(make_tree(2))
    checkpointer.save(4, make_tree(4), {})
    assert checkpointer.steps == (2, 3, 4)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "write_atomically", fail)
    with pytest.raises(SaveError, match=r"/2: .*no space left"):
        checkpointer.amend(2, {"known": "never"})
    assert checkpointer.metadata(2) == {"known": "later"}
    with pytest.raises(CheckpointError, match="MANIFEST"):
        checkpointer.amend(7, {})


def test_a_changed_description_is_refused_with_all_differences():
    saved = {"rate": 0.1, "layers": (1, 2), "gone": None, "where": "a"}
    current = {"rate": 0.2, "layers": [1, 2], "new": 1, "where": "b"}
    check_unchanged("config", saved, {**saved, "where": "b"}, may_change={"where"})
    with pytest.raises(ResumeRefusedError) as error:
        check_unchanged("config", saved, current, may_change={"where"})
    assert str(error.value).splitlines()[:-1] == [
        "The run to resume was made with another config:",
        "  rate: saved 0.1, now 0.2",
        "  gone: saved None, now absent",
        "  new: saved absent, now 1",
    ]


@pytest.mark.parametrize(("module", "is_kept"), [("orbax.path", False), ("mine", True)])
def test_what_orbax_leaves_behind_is_not_reported(module, is_kept):
    space = {"__name__": module}
    exec("def fail():\n    raise OSError(28, 'No space left on device')", space)
    try:
        space["fail"]()
    except OSError:
        information = sys.exc_info()
    message = "Future exception was never retrieved"
    record = logging.LogRecord("asyncio", 40, "", 0, message, (), information)
    assert _is_worth_saying(record) is is_kept
