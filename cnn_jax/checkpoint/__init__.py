"""Checkpoints: durable copies of a tree of arrays and its metadata.

The only package that imports Orbax. It imports no model and no training: it saves any
tree, under a step number, with a metadata mapping that JSON can hold. Nothing damaged
or mismatched is loaded silently, and no kill leaves more than the last save undone.

A directory of checkpoints holds

    lock               the process that writes here; see `cnn_jax.checkpoint.lock`
    <step>/            a checkpoint: Orbax's files, which
                       `orbax.checkpoint.StandardCheckpointer().restore` reads too, and
                       `MANIFEST`, with the size and the sha256 of each
    <step>.unfinished  a save in progress, or a killed run's; likewise with Orbax's
                       `.orbax-checkpoint-tmp`
    <step>.removed     an old checkpoint that is being removed
    <step>.damaged     one that was damaged, when its step was saved again

The middle three are removed when the next run starts; whatever else is there is ignored
and left alone. Checkpoints made before there was a manifest are not read.
"""

from cnn_jax.checkpoint.changes import (
    check_unchanged,
    differences,
    installed_versions,
)
from cnn_jax.checkpoint.checkpointer import Checkpoint, Checkpointer, Description
from cnn_jax.checkpoint.errors import (
    CheckpointError,
    DamagedCheckpointWarning,
    DirectoryInUseError,
    RemovedError,
    ResumeRefusedError,
    SaveError,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "DamagedCheckpointWarning",
    "Description",
    "DirectoryInUseError",
    "RemovedError",
    "ResumeRefusedError",
    "SaveError",
    "check_unchanged",
    "differences",
    "installed_versions",
]
