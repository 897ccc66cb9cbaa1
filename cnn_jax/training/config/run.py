"""Configuration of a run's files, and of how often they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

from cnn_jax.ranges import Real, Text, Whole
from cnn_jax.seeds import NUM_SEEDS
from cnn_jax.training.config.requirements import Path, Requirement

ENVIRONMENT = (
    *("platform", "device_kind", "runtime", "threads", "cpu", "instructions"),
    *("xla_flags", "variables", "jax", "jaxlib", "x64", "prng", "matmul_precision"),
    "options",
)
"""Parts of a run's environment, which its numbers depend on and its configuration does
not say; see `cnn_jax.training.run.directory.environment`."""

REMOTE = ("gs://", "s3://", "az://")
"""Beginnings of what is no local directory and can hold checkpoints."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The part of `TrainConfig` about the run itself."""

    model: Annotated[str, Text("a model's name")] = "lenet5"
    """Name of the model, one of `cnn-jax models`."""
    seed: Annotated[int, Whole(0, NUM_SEEDS - 1)] = 0
    """Seed of everything random: parameters, order, augmentation, dropout. From 0 to
    2^32 - 1."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of activations; parameters, statistics and loss stay float32. In `float16` the
    loss is scaled, so that small gradients do not vanish."""
    remat: bool | None = None
    """Recompute what is inside the model's blocks in the backward pass: much less
    memory for about a third more time. Default: the model's, which do not."""
    initial_loss_scale: Annotated[float, Real(1.0, 2.0**24)] = 2.0**15
    """For `float16`: what the loss is multiplied by at first. It halves whenever a
    gradient overflows; that step's update is skipped."""
    loss_scale_growth_steps: Annotated[int, Whole(1)] = 2000
    """For `float16`: steps without overflow after which the scale doubles."""
    run_dir: Path | None = None
    """Directory for config, metrics, events and checkpoints. Default: keep none."""
    checkpoint_dir: Path | None = None
    """Directory of the checkpoints, a path or `gs://...`, which every process of a run
    must reach. Default: `RUN_DIR/checkpoints`."""
    resume: bool = False
    """Continue the run in `run_dir` from its newest checkpoint."""
    allow_changed: tuple[Annotated[str, Text("a field's name", 100)], ...] = ()
    """Fields that may have another value than the run that is resumed had, though they
    change its numbers; `environment` for what they depend on outside the configuration
    (processor, threads, XLA's flags, versions, ...), `environment.threads` for a part.
    """
    non_finite: Literal["stop", "skip"] = "stop"
    """Effect of a loss or a gradient that is not finite: end the run, or have its
    step's update skipped. The overflows of `float16` are skipped in any case."""
    maximum_skipped_steps: Annotated[int, Whole(0)] = 10
    """For `non_finite` `skip`: how many updates of a run may be skipped."""
    checkpoint_every_steps: Annotated[int, Whole(0)] = 0
    """Steps between checkpoints. Default 0: one after every epoch."""
    keep_checkpoints: Annotated[int, Whole(1, 10_000)] = 2
    """Number of the newest checkpoints that are kept, beside the best one."""
    keep_checkpoint_every_steps: Annotated[int, Whole(1)] | None = None
    """Keeps checkpoints of multiples of this number of steps too. Default: none."""
    compilation_cache: Path | None = "~/.cache/cnn_jax/programs"
    """Directory that compiled programs are kept in, for the next run of the same ones;
    `JAX_COMPILATION_CACHE_DIR` goes before. `None` keeps none."""
    keep_memory: bool = True
    """On a CPU: have the process keep the memory that a step frees for the next one,
    which is quicker; see `cnn_jax.allocator`. `CNN_JAX_KEEP_MEMORY=0` goes before."""
    log_every_steps: Annotated[int, Whole(1)] = 20
    """Steps between log lines, each of which waits for the device once."""
    profile_steps: tuple[Annotated[int, Whole(0)], Annotated[int, Whole(1)]] | None = (
        None
    )
    """The first step to trace, and the first not to, into `RUN_DIR/profile`. Default:
    none."""

    def _run_requirements(self) -> Iterable[Requirement]:
        yield (
            "run_dir",
            self.run_dir is None
            or (_is_path(self.run_dir) and "://" not in self.run_dir),
            "a local directory; checkpoint_dir may be elsewhere",
        )
        where = self.checkpoint_dir
        yield (
            "checkpoint_dir",
            where is None
            or (_is_path(where) and ("://" not in where or where.startswith(REMOTE))),
            f"a directory, or {', '.join(REMOTE)} and what follows",
        )
        yield (
            "checkpoint_dir",
            self.checkpoint_dir is None or self.run_dir is not None,
            "run_dir to be given for the run's other files",
        )
        steps = self.profile_steps
        yield (
            "profile_steps",
            steps is None or (self.run_dir is not None and steps[0] < steps[1]),
            "two rising whole numbers, and a run_dir to write to",
        )
        fields = [field.name for field in dataclasses.fields(self)]
        fields += ["loss_fn", "metrics", "environment"]
        fields += [f"environment.{part}" for part in ENVIRONMENT]
        unknown = [name for name in self.allow_changed if name not in fields]
        yield "allow_changed", not unknown, f"names of fields, not {unknown}"
        yield (
            "resume",
            not self.resume or self.run_dir is not None,
            "run_dir to be given, which says what to resume",
        )


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value
