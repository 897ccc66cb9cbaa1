"""A checkpoint that an earlier version made is read, bit for bit."""

import hashlib
import json
import shutil

import jax
import orbax.checkpoint as ocp
import pytest
from fixtures.make_checkpoint import DIRECTORY, METADATA, make_tree

from cnn_jax import trees
from cnn_jax.checkpoint import Checkpointer, CheckpointError


def test_format_1_is_read(tmp_path):
    with Checkpointer(DIRECTORY, read_only=True) as checkpointer:
        assert checkpointer.steps == (3,)
        assert checkpointer.best_step == 3
        found = checkpointer.restore(jax.tree.map(jax.numpy.zeros_like, make_tree()))
    assert found.metadata == METADATA
    assert trees.digest(found.tree) == trees.digest(make_tree())
    assert not (DIRECTORY / "lock").exists()


def test_orbax_reads_it_too():
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(DIRECTORY / "3", trees.named_leaves(make_tree()))
    assert trees.digest(found) == trees.digest(trees.named_leaves(make_tree()))


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path):
    for step in (1, 3):
        shutil.copytree(DIRECTORY / "3", tmp_path / str(step))
    path = tmp_path / "3" / "MANIFEST"
    content = json.loads(path.read_bytes().partition(b"\n")[2])
    body = json.dumps({**content, "format_version": 2, "news": []}).encode()
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        for use in (checkpointer.metadata, lambda: checkpointer.steps):
            with pytest.raises(CheckpointError, match="format 2, expected format 1"):
                use()


def test_what_was_saved_before_there_was_a_manifest_is_refused(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "3", trees.named_leaves(make_tree()))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step is None
        with pytest.raises(CheckpointError, match="3: it has no MANIFEST"):
            checkpointer.restore(make_tree())
    assert (tmp_path / "3").exists()
