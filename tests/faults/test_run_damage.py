"""A run that finds its newest checkpoint damaged goes on from the one before it.

See `test_damage` for all that the checkpoints themselves guarantee.
"""

import os
import re
import shutil
import signal

import pytest
from helpers.quick import nightly_except

from cnn_jax.checkpoint.files import all_files, as_path
from faults.experiments import STEPS, Experiment, assert_goes_on
from faults.test_damage import DAMAGES

pytestmark = pytest.mark.slow

NEWEST, BEFORE = 20, 16
"""The newest is of the second epoch's end, and a new best. Falling back on the one
before needs what was the best then, the first epoch's end."""


@pytest.fixture(scope="session")
def killed(runner, tmp_path_factory):
    """The directory of a run that was killed behind the newest checkpoint."""
    broken = Experiment(runner, tmp_path_factory.mktemp("killed") / "run")
    save = STEPS.index(NEWEST) + 2
    kill = {"point": "save_begins", "save": save}
    assert broken.start(kill=kill) == -signal.SIGKILL, broken.output
    assert broken.steps[-2:] == (BEFORE, NEWEST)
    return broken.run_dir


@pytest.fixture
def damaged(experiment, killed):
    """The experiment over a copy of that directory."""
    shutil.copytree(killed, experiment.run_dir)
    return experiment


def file_names(killed):
    return sorted(all_files(as_path(killed / "checkpoints" / str(NEWEST))))


def largest_file(run_dir):
    """Returns the file of the newest checkpoint that holds most of its arrays."""
    directory = run_dir / "checkpoints" / str(NEWEST)
    files = (path for path in directory.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_a_bit_flipped_among_the_arrays(damaged, undisturbed):
    path = largest_file(damaged.run_dir)
    DAMAGES["a bit flipped"](path)
    assert_goes_on(damaged, undisturbed, BEFORE)
    assert f"/{NEWEST}: the checkpoint is damaged: " in damaged.output
    assert path.name in damaged.output
    assert f"Step {BEFORE} is used." in damaged.output


@pytest.mark.parametrize("number", nightly_except([0, 3], range(len(DAMAGES))))
def test_every_file_damaged(experiment, killed, undisturbed, number):
    """Each in one of the ways; `test_damage` has each in all."""
    names = file_names(killed)
    assert len(names) > 8
    damage = list(DAMAGES)[number]
    for name in names[number :: len(DAMAGES)]:
        shutil.rmtree(experiment.run_dir, ignore_errors=True)
        shutil.copytree(killed, experiment.run_dir)
        DAMAGES[damage](experiment.run_dir / "checkpoints" / str(NEWEST) / name)
        assert_goes_on(experiment, undisturbed, BEFORE)
        warning = f"/{NEWEST}: the checkpoint is damaged: .*{name}.* Step {BEFORE} is"
        assert re.search(warning, experiment.output), (name, experiment.output)


def test_no_sound_checkpoint_is_a_refusal(damaged):
    damage = list(DAMAGES.values())
    for number, path in enumerate((damaged.run_dir / "checkpoints").glob("*/MANIFEST")):
        damage[number](path)
    before = snapshot(damaged.run_dir)
    assert damaged.start("--resume") == 1, damaged.output
    begins = f"CheckpointError: {damaged.run_dir}/checkpoints: every checkpoint is"
    assert f"\n{begins} damaged:\n" in damaged.output
    assert "cnn_jax/experiment.py" not in damaged.output
    assert snapshot(damaged.run_dir) == before


def test_the_best_checkpoint_damaged_is_a_refusal(damaged):
    # At step 20 it is the newest and the best; 16 goes back to the best of step 10.
    DAMAGES["halved"](largest_file(damaged.run_dir))
    DAMAGES["deleted"](damaged.run_dir / "checkpoints" / "10" / "MANIFEST")
    before = snapshot(damaged.run_dir)
    assert damaged.start("--resume") == 1, damaged.output
    assert "/checkpoints/10: the checkpoint is damaged" in damaged.last_line
    assert snapshot(damaged.run_dir) == before


def snapshot(run_dir):
    """Returns every file's content but the lock's, which says who held it last."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_junk_in_the_run_directory(damaged, undisturbed):
    checkpoints = damaged.run_dir / "checkpoints"
    junk = [
        damaged.run_dir / "notes",
        damaged.run_dir / "checkpoints.old",
        checkpoints / "99.tmp",
        checkpoints / "099",
        checkpoints / "best",
        checkpoints / "24.damaged",
    ]
    in_the_way = [checkpoints / str(step) for step in (24, 28, 30, 99)]
    for directory in (*junk, *in_the_way):
        directory.mkdir()
        (directory / "keep").write_text("me")
    (checkpoints / "README").write_text("me")
    (damaged.run_dir / "events.out.tfevents.0").write_text("me")
    (damaged.run_dir / "result.json").write_text("not yet")
    (damaged.run_dir / "config.json.new").write_text("torn by a k")
    os.symlink(checkpoints / "99.tmp", checkpoints / "22")
    with open(damaged.run_dir / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    assert_goes_on(damaged, undisturbed, NEWEST)
    assert "/99: the checkpoint is damaged: it has no MANIFEST" in damaged.output
    assert all((path / "keep").read_text() == "me" for path in junk)
    assert (checkpoints / "99" / "keep").exists()
    assert (checkpoints / "24.damaged-2" / "keep").exists()
    assert damaged.steps[-2:] == (28, 30)
