"""Checks the files of a recipe and writes its shards."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import difflib
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping

from cnn_jax import messages, program
from cnn_jax.data import owner
from cnn_jax.data.prepare.archives import ArchiveError, sha256_of
from cnn_jax.data.prepare.cifar import CIFAR10, CIFAR100
from cnn_jax.data.prepare.imagenet import IMAGENET
from cnn_jax.data.prepare.mnist import FASHION_MNIST, MNIST
from cnn_jax.data.prepare.recipe import Bar, Recipe, Shard
from cnn_jax.files import is_local

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (CIFAR10, CIFAR100, MNIST, FASHION_MNIST, IMAGENET)
}
"""By name, all that can be prepared."""


_INCOMPLETE = ".incomplete-"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset on disk, as `prepare` returns it.

    Attributes:
      directory: Its directory.
      num_examples: Of each split.
      num_bytes: Of all shards together.
    """

    directory: pathlib.Path
    num_examples: dict[str, int]
    num_bytes: int


class PrepareError(RuntimeError):
    """A set that cannot be written: a full disk, or a worker that was killed."""


def prepare(
    name: str,
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    processes: int = 1,
    check: bool = True,
    overwrite: bool = False,
    progress: bool = True,
) -> Prepared:
    """Prepares a dataset from its publishers' files.

    The new directory appears under its name in one rename, when it is complete.

    Args:
      name: A key of `RECIPES`.
      source: The directory with the files, under their publishers' names.
      data_dir: Gets `NAME/VERSION/`; like `source` a local directory.
      processes: How many work side by side, each on a shard.
      check: Whether the files' sha256 must be the published ones.
      overwrite: Whether a set that is already there is replaced.
      progress: Whether to show a bar, if the terminal can.

    Returns:
      What was written.

    Raises:
      ValueError: If there is no such recipe, a directory is not a local one, a file is
        not the published one, or it is damaged (`ArchiveError`).
      FileNotFoundError: If a file is missing; the message lists all that are.
      FileExistsError: If the set is already there.
      PrepareError: If the set cannot be written; nothing is left of it.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        raise ValueError(
            f"dataset: got {name!r}, expected one of {', '.join(RECIPES)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if processes < 1:
        raise ValueError(f"processes: got {processes}, expected at least 1.")
    recipe = RECIPES[name]
    source = _local("source", source)
    home = _local("data_dir", data_dir) / recipe.name
    target = home / recipe.version
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is already there; --overwrite replaces it.")
    present = _find_files(recipe, source)
    with _bars(progress) as bar:
        if check:
            _check(present, bar)
        with _finishing(target):
            home.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename stays on one file system.
        owner.remove_directories_of_the_dead(home, _INCOMPLETE)
        owner.remove_shared_memory_of_the_dead()
        prefix = owner.directory_prefix(_INCOMPLETE)
        with (
            _finishing(target),
            tempfile.TemporaryDirectory(prefix=prefix, dir=home) as scratch,
        ):
            written = _write(recipe, source, pathlib.Path(scratch), processes, bar)
            if target.exists():
                # Half removed, the old set would still look like a prepared one.
                target.rename(pathlib.Path(scratch) / "replaced")
            # The directory that is removed at the end is `scratch`, not what it held.
            (pathlib.Path(scratch) / recipe.version).rename(target)
    return dataclasses.replace(written, directory=target)


@contextlib.contextmanager
def _finishing(target: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong while a set is written into a `PrepareError`."""
    try:
        yield
    except concurrent.futures.BrokenExecutor as error:
        raise PrepareError(
            f"{target}: a worker process was killed, as the system does when memory "
            "runs out; nothing was written. Repeat it with fewer --processes."
        ) from error
    # array_record raises RuntimeError, with the system's reason in its text.
    except (OSError, RuntimeError) as error:
        raise PrepareError(f"{target}: cannot be written: {error}.") from error


def _local(argument: str, path: str | os.PathLike[str]) -> pathlib.Path:
    if not is_local(path):
        raise ValueError(
            f"{argument}: got {os.fspath(path)!r}, expected a local directory; a set "
            "that was prepared locally can be copied there."
        )
    return pathlib.Path(path).expanduser().absolute()


def _find_files(recipe: Recipe, source: pathlib.Path) -> dict[pathlib.Path, str]:
    present = {
        source / file.name: file.sha256
        for file in recipe.files
        if (source / file.name).is_file()
    }
    missing = [
        file.name
        for file in recipe.files
        if file.required and source / file.name not in present
    ]
    if missing or not present:
        wanted = missing or [file.name for file in recipe.files]
        raise FileNotFoundError(
            f"{source}: expected {' and '.join(wanted)} for {recipe.name!r}, found "
            "none of that name."
        )
    return present


def _check(files: Mapping[pathlib.Path, str], bar: Bar) -> None:
    for path, expected in files.items():
        found = sha256_of(path, bar(f"Checking {path.name}", path.stat().st_size))
        if found != expected:
            raise ArchiveError(
                f"{path}: got the sha256 {found}, expected {expected}. The file is "
                "damaged or another edition; --no-check takes it as it is."
            )


def _write(
    recipe: Recipe,
    source: pathlib.Path,
    scratch: pathlib.Path,
    processes: int,
    bar: Bar,
) -> Prepared:
    import tensorflow_datasets as tfds

    directory = scratch / recipe.version
    directory.mkdir()
    shards = recipe.shards(source, bar)
    jobs = {
        (split, number): _Job(
            recipe.name,
            source,
            shard,
            directory
            / f"{recipe.name}-{split}.array_record-{number:05}-of-{len(all_of):05}",
        )
        for split, all_of in shards.items()
        for number, shard in enumerate(all_of)
    }
    advance = bar(f"Writing {recipe.name}", len(jobs))
    done = dict(zip(jobs, _run(list(jobs.values()), processes, advance), strict=True))
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[done[split, number][0] for number in range(len(all_of))],
            num_bytes=sum(done[split, number][1] for number in range(len(all_of))),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=directory,
                dataset_name=recipe.name,
                split=split,
                filetype_suffix="array_record",
            ),
        )
        for split, all_of in shards.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=recipe.features(source),
        split_infos=splits,
        version=recipe.version,
        supervised_keys=("image", "label"),
        check_data=False,  # would read it back through TensorFlow
    )
    return Prepared(
        directory,
        {split.name: split.num_examples for split in splits},
        sum(split.num_bytes for split in splits),
    )


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to be written; a process rebuilds the features from the recipe."""

    recipe: str
    source: pathlib.Path
    shard: Shard
    path: pathlib.Path

    def __call__(self) -> tuple[int, int]:
        """Returns the number of records and of bytes."""
        from array_record.python.array_record_module import ArrayRecordWriter
        from tensorflow_datasets.proto import tf_example_pb2

        features = RECIPES[self.recipe].features(self.source)
        writer = ArrayRecordWriter(os.fspath(self.path), "group_size:1")
        num_records = num_bytes = 0
        try:
            for record in self.shard.records():
                example = tf_example_pb2.Example.FromString(
                    features.serialize_example(record)
                )
                # TFDS leaves the order of an example's entries to chance: the same
                # files would give each process other bytes, and so a fingerprint.
                serialized = example.SerializeToString(deterministic=True)
                writer.write(serialized)
                num_records += 1
                num_bytes += len(serialized)
        finally:
            writer.close()
        return num_records, num_bytes


def _run(
    jobs: list[_Job], processes: int, advance: Callable[[int], None]
) -> Iterator[tuple[int, int]]:
    if processes == 1:
        for job in jobs:
            yield job()
            advance(1)
        return
    others = set(multiprocessing.active_children())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with program.starting_processes():
        owner.begin_starting_workers()
        try:
            pool = concurrent.futures.ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=owner.begin_worker,
            )
            futures = [pool.submit(job) for job in jobs]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with pool:
        for future in futures:
            future.add_done_callback(lambda future: advance(1))
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            # A shard may take minutes, and nobody waits for it any more. The pool
            # ends the other shards when it finds its workers killed; cancelled
            # here, they would raise in the pool's thread before Python 3.12.
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[Bar]:
    import rich.progress

    console = messages.console(sys.stderr)
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.file.isatty()),
    ) as progress:

        def bar(description: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(messages.printable(description), total=total)
            return lambda amount: progress.advance(task, amount)

        yield bar
