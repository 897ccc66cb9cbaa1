"""The command line of a study: its data, its size and its directory."""

from __future__ import annotations

import dataclasses

from cnn_jax.report.words import listed
from cnn_jax.studies.panel import Panel, Size, Study


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """The panels of a study, their data and their number of runs."""

    panel: tuple[str, ...] = ()
    """Names of the panels. Default: all."""
    dataset: str = "digits"
    """`digits`, or the name of a prepared TFDS set."""
    data_dir: str | None = None
    """Directory of TFDS sets. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    image_size: int | None = None
    """Height and width to bring images to. Default: the dataset's own."""

    smoke: bool = False
    """A few examples and two variants of each panel: whether everything runs."""
    results: bool = False
    """The size of committed results: hours on two CPU cores."""
    full: bool = False
    """All of the data, for an accelerator."""
    seeds: int | None = None
    """Runs of each variant, with the seeds 0, 1, ... Default: the size's."""
    epochs: int | None = None
    """Passes over the training examples. Default: the size's."""
    train_per_class: int | None = None
    """Training examples of each class; 0 for all. Default: the size's."""
    batch_size: int | None = None
    """Examples per step, over all devices. Default: the recipe's."""

    run_dir: str | None = None
    """Directory of the report and the runs. Default: a new directory below `runs`."""
    resume: bool = False
    """Continue the study in `run_dir`: what is finished is kept."""

    def validate(self, study: Study) -> None:
        """Checks every field.

        Raises:
          ValueError: Saying what is wrong with which field.
        """
        known = [panel.name for panel in study.panels]
        unknown = [name for name in self.panel if name not in known]
        if unknown:
            raise ValueError(
                f"panel: got {listed(unknown)}, expected some of {listed(known)}."
            )
        if sum((self.smoke, self.results, self.full)) > 1:
            raise ValueError(
                "smoke, results, full: got more than one, expected one size at most."
            )
        for name in ("seeds", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1.")
        if self.train_per_class is not None and self.train_per_class < 0:
            raise ValueError(
                f"train_per_class: got {self.train_per_class}, expected a number of "
                "examples, or 0 for all."
            )
        if self.resume and self.run_dir is None:
            raise ValueError(
                "resume: got no run_dir, expected the directory of the study to "
                "continue (--run-dir)."
            )

    def panels(self, study: Study) -> list[Panel]:
        """Returns the panels that are asked for, in the order of the page."""
        return [
            panel.reduced() if self.smoke else panel
            for panel in study.panels
            if not self.panel or panel.name in self.panel
        ]

    @property
    def size_name(self) -> str:
        """The name of the size: "smoke", "results", "full" or "default"."""
        names = ("smoke", "results", "full")
        return next((name for name in names if getattr(self, name)), "default")

    def size(self, study: Study) -> Size:
        """Returns the size with what the command line changes of it."""
        size = study.sizes[self.size_name]
        changes = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Size)
            if getattr(self, field.name, None) is not None
        }
        return dataclasses.replace(size, **changes)
