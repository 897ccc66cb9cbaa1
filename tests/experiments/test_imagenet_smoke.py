"""ImageNet from its archives to a result, through the launch script, and a kill."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from helpers.imagenet_archives import write_imagenet

from cnn_jax import cli
from cnn_jax.data import open_split
from cnn_jax.training.run.directory.files import CLOCKED

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A directory in place of a bucket, with a made-up ImageNet."""
    archives = tmp_path_factory.mktemp("archives")
    write_imagenet(archives)
    path = tmp_path_factory.mktemp("bucket")
    places = ["--from", str(archives), "--data-dir", str(path / "tfds")]
    assert cli.main(["prepare", "imagenet2012", *places, "--no-check"]) == 0
    return path


def test_made_up_archives_are_prepared_as_the_publishers_own(bucket):
    train = open_split("imagenet2012", "train", data_dir=str(bucket / "tfds"))
    validation = open_split("imagenet2012", "validation", data_dir=str(bucket / "tfds"))
    assert (len(train), len(validation)) == (64, 16)
    assert len(train.class_names) == 1000
    assert sorted({train[index].label for index in range(64)}) == [0, 1, 2, 3]


def start(bucket, run):
    """Starts `train.sh` with the preset `smoke` in a group of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
        "BUCKET": str(bucket),
        "PRESET": "smoke",
        "RUN": run,
        "RUN_DIR": str(bucket / "machine" / run),
        "PYTHON": sys.executable,
    }
    return subprocess.Popen(
        ["bash", str(ROOT / "experiments" / "cloud" / "train.sh")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(bucket, run):
    """Trains to the end; returns what was said."""
    process = start(bucket, run)
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out + error


def epochs_of(files):
    """The lines of `metrics.jsonl` about epochs, without what a clock wrote."""
    lines = map(json.loads, (files / "metrics.jsonl").read_text("utf-8").splitlines())
    return [
        {name: value for name, value in line.items() if name not in CLOCKED}
        for line in lines
        if line["event"] == "epoch"
    ]


@pytest.mark.nightly
def test_a_killed_run_ends_on_another_machine_as_one_left_alone(bucket):
    finish(bucket, "alone")

    process = start(bucket, "killed")
    for line in process.stdout:
        if line.startswith("epoch 2/3"):  # of 4 steps each, saved after every 3
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    checkpoints = bucket / "runs" / "killed" / "checkpoints"
    assert list(checkpoints.glob("*/MANIFEST"))
    assert not (bucket / "machine" / "killed" / "result.json").exists()
    # The machine is gone, and its directories with it.
    shutil.rmtree(bucket / "machine" / "killed")
    assert "Resuming at step" in finish(bucket, "killed")

    alone, killed = (bucket / "runs" / run / "files" for run in ("alone", "killed"))
    results = [
        json.loads((files / "result.json").read_text("utf-8"))
        for files in (alone, killed)
    ]
    assert results[0]["state_digest"] == results[1]["state_digest"]
    assert results[0]["test"] == results[1]["test"]
    assert epochs_of(alone) == epochs_of(killed)
    assert len(epochs_of(killed)) == 3
    assert (killed / "report.html").exists()
