"""Errors of saving and restoring checkpoints."""


class CheckpointError(RuntimeError):
    """A checkpoint does not hold what was saved into it, or not what is expected."""


class SaveError(CheckpointError):
    """A checkpoint could not be written; those from before are as they were."""


class DirectoryInUseError(CheckpointError):
    """Another run writes into the directory."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was saved."""


class RemovedError(CheckpointError):
    """A checkpoint was removed, by the run that wrote it, while it was read."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint is damaged, and an older one is used in its place."""


class ResumeRefusedError(ValueError):
    """A run cannot be continued because something that shapes it has changed."""
