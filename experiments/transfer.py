"""Transfer: which approach when. One pretrained network, few and many labels.

    python experiments/transfer.py
    python experiments/transfer.py --weights FILE
    python experiments/transfer.py --dataset mnist --data-dir DIR --weights FILE

A network that learned one task is brought to another, for which there are 5, 10, 50,
... labelled examples per class: from scratch, by a linear probe on its features, by
tuning all of it, or the probe first and then all; and with batch norm trained, adapted
or frozen. With `--weights` the first task is that of the weights, and the second the
dataset; without, they are the first and the second half of the dataset's classes.

Every run of training takes the same number of steps: small sets are gone through more
often. A seed draws the examples, the same for all treatments, and everything random in
training. The run directory gets `report.html` and `results.json`; `--resume` keeps the
runs that are finished.

The 225 runs of the command in docs/transfer.md take 21 minutes of training on two CPU
cores (`experiments/results/transfer_digits.json`); every finished run prints about how
long the rest will take.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import transfer_page
import tyro
from transfer_findings import (
    APPROACHES,
    POLICIES,
    Findings,
    Size,
    TransferRun,
    Treatment,
    percent,
)
from transfer_treatments import Backbone, Learned, Learner

from cnn_jax import (
    create_model,
    load_pretrained,
    messages,
    sharding,
    trees,
)
from cnn_jax.checkpoint import check_unchanged
from cnn_jax.checkpoint.lock import lock_new
from cnn_jax.data import Dataset, evaluated, load_dataset
from cnn_jax.files import (
    MAX_JSON_BYTES,
    open_unlinked,
    read_bytes,
    read_json,
    reading,
)
from cnn_jax.layers import abstract_variables
from cnn_jax.pretrained import ConversionReport, preprocessing_of
from cnn_jax.pretrained.files import describe_own
from cnn_jax.pretrained.rebuild import rebuild
from cnn_jax.report import environment, study
from cnn_jax.report.progress import PlannedRun, RunProgress
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import CROP_FIELDS, image_format
from cnn_jax.training.run.result import NonFiniteLossError

BatchNorm = Literal["train", "adapt", "frozen"]


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The weights, the data, the treatments and their number of seeds."""

    weights: str | None = None
    """Weights that learned the first task, as `cnn_jax.load_pretrained` takes them.
    Default: half of the dataset's classes are learned first."""
    source: str | None = None
    """Their task, in a word for the report. Default: the file's name."""
    model: str = "resnet20"
    """Name of the network, out of `cnn-jax models`."""
    dataset: str = "digits"
    """`digits`, or the name of a prepared TFDS set."""
    data_dir: str | None = None
    """Directory of TFDS sets. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    train_split: str = "train"
    """Split that the labelled examples are drawn from; `train[:10%]`, say."""
    source_split: str | None = None
    """Without `weights`: what the first task is learned from. Default: the same."""
    test_split: str = "test"
    """Split that every run is scored on; it decides nothing."""
    image_size: int = 16
    """Height and width to bring images to."""

    examples_per_class: tuple[int, ...] = (5, 10, 50, 100, 0)
    """The numbers of labelled examples per class, ascending; 0 at the end means all."""
    approaches: tuple[
        Literal["scratch", "feature_extraction", "fine_tune", "head_then_all"], ...
    ] = tuple(APPROACHES)
    """The treatments that are compared."""
    batch_norm: tuple[BatchNorm, ...] = ("train", "adapt", "frozen")
    """The policies to compare, for approaches to which they mean something."""
    seeds: int = 5
    """Runs of each treatment and size, with the seeds 0, 1, ..."""

    steps: int = 100
    """Training steps of every run that trains the network."""
    batch_size: int = 32
    """Examples per step, over all devices."""
    learning_rate: float = 0.03
    """The highest one when pretrained weights are tuned."""
    scratch_learning_rate: float = 0.1
    """The highest one when random weights are trained."""
    weight_decay: float = 5e-4
    """Coefficient of the weight decay."""
    maximum_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm. With batch norm frozen, nothing else
    keeps a step from being too long."""
    probe_l2: float = 1e-3
    """Coefficient of the penalty in a linear probe."""
    crop_padding: int = 1
    """Zeros around an image before a random crop back to its size."""
    source_epochs: int = 5
    """Without `weights`: passes over the first half of the classes."""

    smoke: bool = False
    """Two sizes, two seeds and a few steps: whether everything runs."""
    run_dir: str | None = None
    """Directory of the report. Default: a new directory below `runs`."""
    resume: bool = False
    """Continue the study in `run_dir`: finished runs are kept."""

    def reduced(self) -> Transfer:
        """Returns the study at the size that `smoke` asks for."""
        if not self.smoke:
            return self
        return dataclasses.replace(
            self, examples_per_class=(4, 8), seeds=2, steps=4, source_epochs=1
        )

    def validate(self) -> None:
        """Checks every field.

        Raises:
          ValueError: Saying what is wrong with which field.
        """
        sizes = self.examples_per_class
        counts = sizes[:-1] if sizes and sizes[-1] == 0 else sizes
        if not sizes or list(counts) != sorted({n for n in counts if n > 0}):
            raise ValueError(
                f"examples_per_class: got {sizes}, expected positive numbers, each "
                "larger than the one before, and perhaps 0 at the end for all."
            )
        if not self.treatments:
            raise ValueError(
                f"approaches, batch_norm: got {self.approaches} with "
                f"{self.batch_norm}, which mean nothing together; policies are "
                f"{dict(POLICIES)}."
            )
        if self.seeds < 1:
            raise ValueError(f"seeds: got {self.seeds}, expected at least 1.")
        if self.steps < 1 or self.source_epochs < 1:
            raise ValueError(
                f"steps, source_epochs: got {self.steps} and {self.source_epochs}, "
                "expected at least 1."
            )
        if self.resume and self.run_dir is None:
            raise ValueError(
                "resume: got no run_dir, expected the directory of the study to "
                "continue (--run-dir)."
            )
        self.train_config(0).validate()
        sharding.check_batch_size(self.batch_size, sharding.make_mesh())

    @property
    def treatments(self) -> list[Treatment]:
        """The treatments, in the order of the report."""
        return [
            Treatment(approach, policy)
            for approach in APPROACHES
            if approach in self.approaches
            for policy in POLICIES[approach]
            if policy in self.batch_norm
        ]

    def train_config(self, seed: int, **changes: Any) -> TrainConfig:
        """Returns the recipe of a run; `changes` replace or add fields."""
        fields = {
            "model": self.model,
            "dataset": self.dataset,
            "image_size": self.image_size,
            "epochs": 1,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "crop_padding": self.crop_padding,
            "maximum_gradient_norm": self.maximum_gradient_norm,
            "log_every_steps": 50,
            "seed": seed,
        }
        return TrainConfig(**fields | changes)


# ------------------------------------------------------------------- the two tasks


def load_tasks(config: Transfer) -> tuple[Backbone, Dataset, Dataset, str]:
    """Returns a network that knows the first task, and the second one's two splits.

    The last thing returned says in words what the first task was.
    """
    train, test = (
        _load(config, split) for split in (config.train_split, config.test_split)
    )
    if config.weights is not None:
        backbone, source, report = _load_weights(config)
        channels = report.input_shape[-1]
        train, test = (split.with_channels(channels) for split in (train, test))
        how = image_format(
            config.train_config(0, mean=backbone.mean, std=backbone.std),
            train,
            weights=report.provenance.preprocessing,
        ).preprocessing
        crop = {name: getattr(how, name) for name in CROP_FIELDS}
        backbone = backbone._replace(crop=crop)
        # Probes and the report read the images of both as they are.
        train, test = (evaluated(split, how) for split in (train, test))
    else:
        half = train.num_classes // 2
        if half < 2:
            raise ValueError(
                f"dataset: got {config.dataset!r} of {train.num_classes} classes, "
                "expected at least 4, half of which to learn first; or give weights."
            )
        first, second = range(half), range(half, train.num_classes)
        to_learn = train
        if config.source_split is not None:
            to_learn = _load(config, config.source_split)
        source_test = test.of_classes(first)
        backbone = _learn_source(config, to_learn.of_classes(first), source_test)
        score = percent(_accuracy(backbone, source_test))
        source = f"the other {half} classes of {config.dataset} (to {score})"
        train, test = (split.of_classes(second) for split in (train, test))
    return _for_task(backbone, train), train, test, source


def _load(config: Transfer, split: str) -> Dataset:
    return load_dataset(
        config.dataset, split, data_dir=config.data_dir, image_size=config.image_size
    )


def _load_weights(config: Transfer) -> tuple[Backbone, str, ConversionReport]:
    """Returns the network, what it learned, and the report of its weights."""
    own = describe_own(config.weights)
    model = rebuild(config.weights, own, name=config.model)
    variables, report = load_pretrained(model, config.weights)
    images = preprocessing_of(
        report, config.model, is_run=own is not None and own.is_run
    )
    source = config.source or pathlib.Path(config.weights).name
    return Backbone(model, variables, images.mean, images.std), source, report


def _learn_source(config: Transfer, train: Dataset, test: Dataset) -> Backbone:
    """Trains on the first task, or reads what an earlier start of the study trained."""
    model = create_model(config.model, num_classes=train.num_classes)
    mean, std = train.channel_statistics
    path = pathlib.Path(config.run_dir) / "variables" / "source.npz"
    if path.exists():
        return Backbone(model, load_pretrained(model, path)[0], mean, std)
    messages.say(f"Learning the first task: {len(train):,} images.")
    recipe = config.train_config(
        0,
        epochs=config.source_epochs,
        learning_rate=config.scratch_learning_rate,
        mean=mean,
        std=std,
    )
    result = fit(model, train, test=test, config=recipe)
    save_variables(path, result.best_variables)
    return Backbone(model, result.best_variables, mean, std)


def _accuracy(backbone: Backbone, test: Dataset) -> float:
    apply = jax.jit(functools.partial(backbone.model.apply, train=False))
    logits = [apply(backbone.variables, x) for x in backbone.batches(test.images)]
    return float(np.mean(np.argmax(np.concatenate(logits), axis=1) == test.labels))


def _for_task(backbone: Backbone, train: Dataset) -> Backbone:
    """Returns the network with the second task's number of classes."""
    model = backbone.model.clone(num_classes=train.num_classes)
    shapes = abstract_variables(
        model, jax.ShapeDtypeStruct((1, *train.image_shape), "float32")
    )
    known = trees.named_leaves(backbone.variables)
    leaves = [
        known[path] if known[path].shape == leaf.shape else np.zeros(leaf.shape, "f4")
        for path, leaf in trees.named_leaves(shapes).items()
    ]
    variables = jax.tree.structure(shapes).unflatten(leaves)
    return backbone._replace(model=model, variables=variables)


def save_variables(path: pathlib.Path, variables: Any) -> None:
    """Writes variables under our own names, as `load_pretrained` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = trees.named_leaves(jax.device_get(variables))
    np.savez(path, **leaves)


# ------------------------------------------------------------------------ the sweep


def sweep(
    config: Transfer, learner: Learner, train: Dataset, run_dir: pathlib.Path
) -> list[TransferRun]:
    """Applies every treatment to every size with every seed, or keeps what was done.

    The variables of the first seed at the last size are written for the report.
    """
    cells = [
        (treatment, size, seed)
        for treatment in config.treatments
        for size in config.examples_per_class
        for seed in range(config.seeds)
    ]
    done = read_runs(run_dir)
    runs = []
    planned = [
        PlannedRun(
            f"{treatment.label}, {size or 'all'} per class, seed {seed}",
            treatment.label,
            0.1 if treatment.approach == "feature_extraction" else 1.0,
        )
        for treatment, size, seed in cells
    ]
    with RunProgress(planned) as progress:
        for treatment, size, seed in cells:
            progress.begin()
            run = done.get((treatment, size, seed))
            is_kept = run is not None
            if not is_kept:
                compiled = learner.compile_seconds
                learned = _learn(learner, treatment, draw(train, size, seed), seed)
                if learner.compile_seconds > compiled:
                    progress.compiled(learner.compile_seconds - compiled)
                run = TransferRun(
                    treatment, size, seed, learned.accuracy, learned.seconds
                )
                if seed == 0 and size == config.examples_per_class[-1]:
                    save_variables(
                        variables_path(run_dir, treatment), learned.variables
                    )
                path = run_dir / "runs.jsonl"
                with open(path, "a", encoding="utf-8", opener=open_unlinked) as file:
                    file.write(json.dumps(dataclasses.asdict(run)) + "\n")
            runs.append(run)
            progress.end(f"test accuracy {run.accuracy:.1%}", is_kept=is_kept)
    return runs


def _learn(
    learner: Learner, treatment: Treatment, examples: Dataset, seed: int
) -> Learned:
    try:
        return learner.learn(treatment, examples, seed)
    except NonFiniteLossError as error:
        raise ValueError(
            f"{treatment.label} of {len(examples):,} examples, seed {seed}: {error} "
            "(--learning-rate, --scratch-learning-rate)"
        ) from error


def draw(train: Dataset, size: int, seed: int) -> Dataset:
    """Returns as many examples per class; for one seed, few are a part of many."""
    return train.take_per_class(size, seed) if size else train


def variables_path(run_dir: pathlib.Path, treatment: Treatment) -> pathlib.Path:
    """Returns where a treatment's variables are."""
    return run_dir / "variables" / f"{treatment.approach}_{treatment.batch_norm}.npz"


def read_runs(
    run_dir: pathlib.Path,
) -> dict[tuple[Treatment, int, int], TransferRun]:
    """Returns the runs that an earlier start of the study finished."""
    path = run_dir / "runs.jsonl"
    if not path.exists():
        return {}
    found = {}
    content = read_bytes(path, max_bytes=MAX_JSON_BYTES)
    with reading(path, "a run of the study in every line"):
        for line in content.decode().splitlines():
            fields = json.loads(line)
            treatment = Treatment(*fields["treatment"])
            run = TransferRun(**fields | {"treatment": treatment})
            found[run.treatment, run.examples_per_class, run.seed] = run
    return found


# ----------------------------------------------------------------------------- main


def run(config: Transfer) -> study.Shown:
    """Runs the study and writes its report.

    Raises:
      ValueError: If the configuration is invalid; before anything is trained.
      FileExistsError: If the run directory holds a study and is not resumed.
      DirectoryInUseError: If another process writes into it.
      FileNotFoundError: If the dataset or the weights are not there.
    """
    config.validate()
    config = config.reduced()
    run_dir = pathlib.Path(config.run_dir)
    with lock_new(run_dir):
        return _run(config, run_dir)


def _run(config: Transfer, run_dir: pathlib.Path) -> study.Shown:
    command = begin_directory(config, run_dir)
    backbone, train, test, source = load_tasks(config)
    check_sizes(config, train)
    recipe = config.train_config(
        0, mean=backbone.mean, std=backbone.std, **backbone.crop
    )
    learner = Learner(
        backbone,
        test,
        recipe,
        scratch_learning_rate=config.scratch_learning_rate,
        steps=config.steps,
        probe_l2=config.probe_l2,
    )
    runs = sweep(config, learner, train, run_dir)
    sizes = [
        Size(size, len(draw(train, size, 0)) / train.num_classes)
        for size in config.examples_per_class
    ]
    findings = Findings(config.treatments, sizes, runs, len(test))
    models = {"pretrained": backbone.variables}
    for treatment in config.treatments:
        variables, _ = load_pretrained(
            backbone.model, variables_path(run_dir, treatment)
        )
        models[treatment] = variables
    results = transfer_page.Results(
        config=config,
        source=source,
        backbone=backbone,
        train=train,
        test=test,
        findings=findings,
        models=models,
        command=command,
        environment=environment.describe_environment(),
    )
    return transfer_page.write_report(results, run_dir)


def begin_directory(config: Transfer, run_dir: pathlib.Path) -> str:
    """Makes the run directory, or checks that it is this study's.

    Returns:
      The command that began the study.
    """
    path = run_dir / "config.json"
    fields = study.public(dataclasses.asdict(config)) | {"resume": False}
    ours = json.loads(json.dumps(fields))
    if not path.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        command = environment.command_line()
        study.write_json(path, {"command": command, "config": ours})
        return command
    if not config.resume:
        raise FileExistsError(
            f"{run_dir} already holds a study. Continue it with --resume, or choose "
            "another directory (--run-dir)."
        )
    begun = read_json(path)
    with reading(path, "the configuration of a study"):
        saved = {name: begun["config"].get(name) for name in ours}
        command = str(begun["command"])
    check_unchanged("config", saved, ours, hint="--run-dir names it")
    return command


def check_sizes(config: Transfer, train: Dataset) -> None:
    """Checks that every run can see all its examples, and every class has enough."""
    largest = max(config.examples_per_class)
    fewest = int(np.bincount(train.labels, minlength=train.num_classes).min())
    if largest > fewest:
        raise ValueError(
            f"examples_per_class: got {largest}, but a class of {train.name} "
            f"{train.split} has {fewest}; expected at most that, or 0 for all."
        )
    seen = config.steps * config.batch_size
    most = max(len(draw(train, size, 0)) for size in config.examples_per_class)
    if seen < most:
        raise ValueError(
            f"steps: got {config.steps} of {config.batch_size} images, which do not go "
            f"through {most:,} examples once; expected at least "
            f"{-(-most // config.batch_size)}, or fewer examples (--train-split, "
            "--examples-per-class)."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study that the command line describes; returns the exit status."""
    config = program.parsed(
        lambda: tyro.cli(Transfer, args=arguments, description=__doc__), arguments
    )
    return study.conduct(config, run, name="transfer", subject=config.dataset)


if __name__ == "__main__":
    sys.exit(main())
