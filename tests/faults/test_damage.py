"""A damaged file is always noticed: an older checkpoint is used, or none, never it."""

import functools
import random
import shutil

import jax.numpy as jnp
import pytest

from cnn_jax import trees
from cnn_jax.checkpoint import (
    Checkpointer,
    CheckpointError,
    DamagedCheckpointWarning,
)
from cnn_jax.checkpoint.files import all_files, as_path
from faults.saver import tree_at


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the sound steps 1 and 2."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpointer(directory) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, tree_at(step), {"saved": step})
    (directory / "lock").unlink()
    return directory


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[: keep(path.stat().st_size)])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    bit = random.Random(path.name).randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGES = {
    "emptied": functools.partial(truncate, keep=lambda size: 0),
    "halved": functools.partial(truncate, keep=lambda size: size // 2),
    "a byte short": functools.partial(truncate, keep=lambda size: size - 1),
    "deleted": lambda path: path.unlink(),
    "a bit flipped": flip_bit,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_is_guarded(tmp_path, saved, damage):
    directory = tmp_path / "checkpoints"
    names = list(all_files(as_path(saved / "2")))
    assert "MANIFEST" in names
    assert len(names) > 8
    for name in names:
        shutil.copytree(saved, directory)
        DAMAGES[damage](directory / "2" / name)
        with Checkpointer(directory) as checkpointer:
            with pytest.raises(CheckpointError, match=r"/2: the checkpoint is damaged"):
                checkpointer.restore(tree_at(0), step=2)
            with pytest.warns(DamagedCheckpointWarning, match=f"/2: .*{name}.*Step 1"):
                found = checkpointer.restore(tree_at(0))
            assert (found.step, found.metadata) == (1, {"saved": 1})
            assert trees.digest(found.tree) == trees.digest(tree_at(1))
            # Told once; from then on it does not count.
            assert checkpointer.metadata() == {"saved": 1}
            assert checkpointer.steps == (1,)
        # With no other to fall back to, all is refused.
        shutil.rmtree(directory / "1")
        with Checkpointer(directory) as checkpointer:
            for use in (
                checkpointer.metadata,
                lambda: checkpointer.restore(tree_at(0)),
            ):
                with pytest.raises(CheckpointError, match=f"every .*\n  2: .*{name}"):
                    use()
        shutil.rmtree(directory)


def test_every_byte_of_a_manifest_is_guarded(tmp_path, saved):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    content = (saved / "2" / "MANIFEST").read_bytes()
    generator = random.Random(0)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps == (1, 2)
        for place in [*range(70), *range(70, len(content), 11)]:
            damaged = bytearray(content)
            damaged[place] ^= 1 << generator.randrange(8)
            (tmp_path / "2" / "MANIFEST").write_bytes(damaged)
            assert checkpointer.steps == (1,)


def test_a_damaged_step_is_set_aside_when_it_is_saved_again(tmp_path, saved):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for again in range(3):
        array = max((tmp_path / "2").rglob("*"), key=lambda path: path.stat().st_size)
        flip_bit(array)
        with Checkpointer(tmp_path) as checkpointer:
            with pytest.warns(DamagedCheckpointWarning):
                assert checkpointer.restore(tree_at(0)).step == 1
            checkpointer.save(2, tree_at(2), {"again": again})
            assert checkpointer.restore(tree_at(0)).metadata == {"again": again}
    assert {path.name for path in tmp_path.iterdir()} == {
        *("1", "2", "2.damaged", "2.damaged-2", "2.damaged-3", "lock")
    }


def test_a_damaged_step_takes_no_place_of_a_sound_one(tmp_path, saved):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    flip_bit(next((tmp_path / "2" / "d").iterdir()))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        with pytest.warns(DamagedCheckpointWarning):
            checkpointer.restore(tree_at(0))
        checkpointer.save(0, tree_at(0), {})
        assert checkpointer.steps == (1,)
    assert (tmp_path / "2").exists()


def test_a_step_under_another_name_is_damaged(tmp_path, saved):
    shutil.copytree(saved / "1", tmp_path / "7")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps == ()
        with pytest.raises(CheckpointError, match="7: it was saved as step 1"):
            checkpointer.restore(tree_at(0))


def test_junk_is_ignored_and_left_alone(tmp_path, saved):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    junk = [
        "notes",
        "03",
        "-4",
        "٣",
        "5.tmp",
        "6.removed.old",
        "x.orbax-checkpoint-tmp",
    ]
    for name in junk:
        (tmp_path / name).mkdir()
        (tmp_path / name / "keep").write_text("me")
    for name in ("9", "8.unfinished", "README"):  # files, not directories
        (tmp_path / name).write_text("me")
    links = ["7.removed", "4"]
    (tmp_path / "7.removed").symlink_to(tmp_path / "notes")
    (tmp_path / "4").symlink_to(saved / "1")
    (tmp_path / "2" / "planted").write_text("me")
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        assert checkpointer.steps == (1, 2)
        assert checkpointer.restore(tree_at(0)).step == 2
        checkpointer.save(9, tree_at(9), {})
        assert checkpointer.steps == (9,)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(*junk, *links, "9", "9.damaged", "8.unfinished", "README", "lock")
    }
    assert all((tmp_path / name / "keep").exists() for name in junk)
    assert (saved / "1" / "MANIFEST").exists()


def test_a_planted_step_is_reported_and_left_alone(tmp_path, saved):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "99").mkdir()
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        with pytest.warns(DamagedCheckpointWarning, match=r"/99: .* no MANIFEST"):
            assert checkpointer.restore(tree_at(0)).step == 2
        checkpointer.save(3, {"x": jnp.zeros(1)}, {})
        assert checkpointer.steps == (3,)
    assert (tmp_path / "99").exists()
