"""Whole training runs in processes that are killed, or whose disk fails; see `forks`.

A plan is either a *tiny* run, of `cnn_jax.training.run.loop.fit`, or an *experiment*,
of `cnn_jax.experiment.main` with the arguments of a command line. Beside those of
`forks` its keys are

    variant, run_dir, resume   of a tiny run
    arguments                  of an experiment
    kill                       when the process kills itself, see `kill_as_planned`
    fault                      what goes wrong, and when, see `FAULTS`
"""

import contextlib
import functools
import os
import resource
import shutil
import signal
import threading
import time

import flax.linen as nn
import grain  # noqa: F401 - imported before the fork, like what follows
import numpy as np
import PIL.Image  # noqa: F401
import sklearn.datasets  # noqa: F401
import tyro  # noqa: F401
from helpers.full_disk import no_space_for

from cnn_jax import experiment
from cnn_jax.data import Dataset, split_folder
from cnn_jax.data.sources import Synthetic
from cnn_jax.data.subset import Subset
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.directory.files import RunFiles
from cnn_jax.training.run.fit import fit
from faults.forks import at_point, kill_self, serve

PHOTOGRAPHS = "FAULTS_PHOTOGRAPHS"
"""The environment variable that names the folder of photographs."""

COMMON = TrainConfig(
    model="tiny",
    image_size=8,
    epochs=4,
    batch_size=8,  # nine steps an epoch
    learning_rate=0.1,
    label_smoothing=0.1,
    validation_fraction=0.2,
    log_every_steps=1,
)

VARIANTS = {
    "resident": {"crop_padding": 1, "ema_decay": 0.9, "checkpoint_every_steps": 4},
    "streamed": {
        "data_path": "stream",
        "augmentation": "inception",
        "mixup_alpha": 0.2,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "checkpoint_every_steps": 3,
    },
    "resident, float16": {
        "dtype": "float16",
        "loss_scale_growth_steps": 3,
        "optimizer": "muon",
        "learning_rate": 0.01,
        "accumulate_steps": 2,
        "checkpoint_every_steps": 5,
        "keep_checkpoints": 1,
    },
    "streamed, until patience ends": {
        "data_path": "stream",
        "augmentation": "erasing",
        "epochs": 9,
        "patience": 2,
        "schedule": "constant",
    },
    "photographs, by workers": {
        "dataset": "folder",
        "data_path": "stream",
        "augmentation": "inception",
        "num_workers": 1,
        "epochs": 2,
        "checkpoint_every_steps": 2,
    },
}
"""Runs that differ in what their state holds and in the path of their data."""


class Net(nn.Module):
    """The least network whose state holds all that a network's can."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(8, name="body")(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.num_classes, name="head")(x)


def train(variant, run_dir, *, resume):
    """Trains `Net` on a few made-up images, as a variant says."""
    changes = {**VARIANTS[variant], "run_dir": run_dir, "resume": resume}
    config = TrainConfig(**{**COMMON.to_dict(), **changes})
    if config.dataset == "folder":
        photographs = split_folder(
            os.environ[PHOTOGRAPHS], test_share=0.25, validation_share=0
        )
        splits = photographs["train"], photographs["test"]
        return fit(Net(3), splits[0], test=splits[1], config=config, progress=False)
    images = Synthetic("synthetic:8x8x1", "train")
    splits = [
        Subset(images, np.arange(first, last), f"{first} to {last}")
        for first, last in ((0, 96), (100, 132))
    ]
    if config.data_path != "stream":
        splits = [read(split) for split in splits]
    return fit(Net(), splits[0], test=splits[1], config=config, progress=False)


def read(split):
    """Returns a split held in memory."""
    examples = [split[index] for index in range(len(split))]
    return Dataset(
        split.name,
        split.split,
        np.stack([example.image for example in examples]),
        np.asarray([example.label for example in examples]),
        split.class_names,
    )


def when_reported(step, function):
    """Has a function called once, when a run has reported a step."""
    write, done = RunFiles.write_metrics, []

    def watched(files, event, values):
        write(files, event, values)
        if values["step"] >= step and not done:
            done.append(step)
            function(files)

    RunFiles.write_metrics = watched


def when_saving(save, function):
    """Has a function called when the n-th save begins and those before are complete."""
    open_files, opened = RunFiles.open, []

    def watched(files, *arguments, **named):
        opened.append(files)
        open_files(files, *arguments, **named)

    RunFiles.open = watched
    at_point("save_begins", save, lambda: opened and function(opened.pop()))


def kill_later(seconds, stop_first=False, group=False):
    """Has this process killed in a while, perhaps when a signal has it stop already."""

    def kill():
        if stop_first:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        kill_self(group=group)

    threading.Thread(target=kill, daemon=True).start()


def kill_as_planned(
    *, delay=0.0, step=None, stop_first=False, point=None, save=None, group=False
):
    """Has this process killed.

    Args:
      delay: Seconds, from the start or from when `step` was reported.
      step: The step, if it is not the start.
      stop_first: Whether to have it stop at `step`: it is killed if it has not by then.
      point: A point of `cnn_jax.checkpoint.points`, in place of both.
      save: The first of this process's saves, from 1, that it may be in.
      group: Whether its workers are killed at the same moment.
    """
    if point is not None:
        at_point(point, save, lambda: kill_self(group=group))
    elif step is not None:
        when_reported(step, lambda files: kill_later(delay, stop_first, group))
    else:
        kill_later(delay, group=group)


def limit_files(files, *, size):
    """No file may grow beyond a size: the nearest to a full disk without one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fill_disk(files, *, ballast):
    """Fills a small disk to its last byte."""
    with open(ballast, "ab", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def fill_disk_for(files, *, file):
    """Leaves no space for a file that the run has open."""
    full = os.open("/dev/full", os.O_WRONLY)
    for descriptor in os.listdir("/proc/self/fd"):
        link = f"/proc/self/fd/{descriptor}"
        if file in os.path.basename(os.path.realpath(link)):
            os.dup2(full, int(descriptor))


LASTING = contextlib.ExitStack()
"""Contexts that end with the process."""


def fill_disk_before(files, *, name):
    """Leaves no space for a whole file that the run is still to write."""
    LASTING.enter_context(no_space_for(name))


def delete(files):
    """The run's directory is deleted under it, at once: not while it looks on."""
    gone = files.directory.with_suffix(".gone")
    files.directory.rename(gone)
    shutil.rmtree(gone)


def write_protect(files):
    """The directory of checkpoints becomes one that this process may not write into."""
    files.checkpoints.chmod(0o555)
    if os.geteuid() == 0:  # whom permissions do not bind
        os.seteuid(65534)


FAULTS = {
    function.__name__: function
    for function in (
        *(limit_files, fill_disk, fill_disk_for, fill_disk_before),
        *(delete, write_protect),
    )
}
"""Functions that a plan's `fault` names, with their `options`, and `step`, which is
reported before, or `save`, the save that begins then, or neither for the start."""


def fail_in_save(point, save):
    """Has a save fail in the background."""

    def fail():
        raise RuntimeError("a cosmic ray")

    at_point(point, save, fail)


def arrange(fault):
    """Arranges for what is to go wrong."""
    fault = dict(fault)
    if "point" in fault:
        fail_in_save(**fault)
        return
    function = functools.partial(FAULTS[fault.pop("name")], **fault.pop("options", {}))
    if "step" in fault:
        when_reported(fault["step"], function)
    elif "save" in fault:
        when_saving(fault["save"], function)
    else:
        function(None)


def carry_out(plan):
    if "kill" in plan:
        kill_as_planned(**plan["kill"])
    if "fault" in plan:
        arrange(plan["fault"])
    if "arguments" in plan:
        experiment.main(TrainConfig(), "An experiment.", plan["arguments"])
        return
    train(plan["variant"], plan["run_dir"], resume=plan["resume"])
    # Tearing an interpreter down takes half as long as the run.
    os._exit(0)


if __name__ == "__main__":
    serve(carry_out)
