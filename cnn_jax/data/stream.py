"""Batches streamed from a source, by Grain: read, decoded and transformed on the host.

What a batch holds follows from the seed and the batch's number alone. Grain's
`MapDataset` makes that literal: the shuffled, transformed and batched examples of all
epochs form a sequence with random access, its random numbers included, of which
threads and worker processes compute the next entries ahead of time, and each process of
a run every k-th block. So a position in the data is one integer, the number of finished
steps; continuing there gives the same examples in the same order with other numbers of
threads, workers and processes.

An unreadable image does not move any other: in training, the next readable example of
the source takes its place; in evaluation, it is masked.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import os
import queue
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np

from cnn_jax.data import owner
from cnn_jax.data.host.decode import ImageError
from cnn_jax.data.host.policies import Transform
from cnn_jax.data.reading import BadImage, Read, ReadOrMask, collate
from cnn_jax.data.source import Source
from cnn_jax.seeds import check_seed

NUM_THREADS = min(max(os.cpu_count() or 1, 2), 16)
"""Threads that decode without worker processes, one for each core: Pillow
releases the GIL while it decodes."""

SECONDS_TO_SAVE = 30.0
"""Seconds that a worker process which gets SIGTERM goes on: several processes of a run
agree on the step to stop at when they next log."""

WORKER_THREADS = 2
"""Threads that decode in each worker process."""


class TooManyBadImagesError(ImageError):
    """More images were unreadable than allowed; the message names each."""

    def __init__(self, bad_images: Sequence[BadImage], allowed: int):
        found = "\n".join(f"  {bad.origin}: {bad.reason}" for bad in bad_images)
        message = (
            f"got {len(bad_images)} unreadable image(s), expected no more than "
            f"{allowed} (max_bad_images):\n{found}"
        )
        ValueError.__init__(self, message)
        self.origin: str = bad_images[-1].origin
        self.reason: str = bad_images[-1].reason
        self._arguments = (tuple(bad_images), allowed)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class TrainStream:
    """Shuffled batches of a training split, epoch after epoch, from any step on.

    Args:
      source: The examples.
      batch_size: Examples of a step, over all processes. An epoch's incomplete batch is
        left out; which examples that are differs from epoch to epoch.
      transform: Applied to each image, with a generator of the example's own.
      seed: Decides the order and the generators.
      num_workers: Processes that do the work; 0 leaves it to threads of this one.
      process_index: Which block of each batch is this process's.
      process_count: In how many blocks each batch is read.
      max_bad_images: How many different images may be unreadable.

    Attributes:
      steps_per_epoch: How many batches an epoch has.
      bad_images: Those found so far, in order.

    Raises:
      ValueError: If the split is empty or smaller than a batch, the processes do not
        divide the batch, or the seed is none.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        transform: Transform,
        seed: int = 0,
        num_workers: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        max_bad_images: int = 0,
    ):
        seed = check_seed(seed)
        _check(source, batch_size, process_index, process_count)
        if batch_size > len(source):
            raise ValueError(
                f"batch_size: got {batch_size}, expected 1 to {len(source)}, the "
                f"number of examples of {source.name!r}, split {source.split!r}."
            )
        batch_size = operator.index(batch_size)
        self.steps_per_epoch: int = len(source) // batch_size
        self._source, self._batch_size = source, batch_size
        self._read = Read(source, transform, max_bad_images)
        self._order = _Order(len(source), self.steps_per_epoch * batch_size, seed)
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._num_workers = num_workers
        self._block = slice(process_index, None, process_count)
        self._local_size = batch_size // process_count
        self._budget = _Budget(max_bad_images)

    @property
    def bad_images(self) -> tuple[BadImage, ...]:
        """The bad images found so far."""
        return self._budget.found

    def batches(
        self, start_step: int = 0, stop_step: int | None = None
    ) -> Generator[dict[str, np.ndarray]]:
        """Returns this process's blocks of the batches from a step on.

        Close the iterator to end its threads and processes.

        Args:
          start_step: How many steps are finished.
          stop_step: The first step that none is made for; None for no end.

        Returns:
          Mappings of `image`, uint8 of shape `(n, height, width, channels)`; `label`,
          int32 `(n,)`; and `index`, int64 `(n,)`: the examples' numbers in the source.

        Raises:
          ValueError: At once, if `start_step` is negative.
          TooManyBadImagesError: Before the batch that holds one too many.
          LabelError: If a label is out of range.
          ChildProcessError: Within seconds, if a worker process was killed.
          Exception: What reading or the transform raises, from a worker process too
            (as a `RuntimeError` if it cannot be sent); a note names the example.
        """
        import grain

        if start_step < 0:
            raise ValueError(f"start_step: got {start_step}, expected 0 or more.")
        numbers = grain.MapDataset.source(self._order)
        examples = numbers.random_map(self._read, seed=self._seed)
        blocks = examples.batch(self._local_size, batch_fn=collate)[self._block]
        batches = _iterate(blocks[start_step:stop_step], self._num_workers)
        return self._budget.checked(batches, ("image", "label", "index"))


class EvalStream:
    """A split's examples once, in the source's order, in batches of one size.

    The last batches are padded with black images that a mask marks, so that every
    process gets equally many batches and the masks add up to the split's size.

    Args:
      source: The examples.
      batch_size: Examples of a batch, over all processes.
      transform: As in `TrainStream`.
      num_workers: As in `TrainStream`.
      process_index: As in `TrainStream`.
      process_count: As in `TrainStream`.
      max_bad_images: How many images may be unreadable; they are masked.

    Attributes:
      num_batches: How many there are.
      bad_images: Those found so far.

    Raises:
      ValueError: If the split is empty, or the processes do not divide the batch.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        transform: Transform,
        num_workers: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        max_bad_images: int = 0,
    ):
        _check(source, batch_size, process_index, process_count)
        batch_size = operator.index(batch_size)
        self.num_batches: int = -(-len(source) // batch_size)
        self._batch_size = batch_size
        self._read = ReadOrMask(source, transform)
        self._num_workers = num_workers
        self._block = slice(process_index, None, process_count)
        self._local_size = batch_size // process_count
        self._budget = _Budget(max_bad_images)

    @property
    def bad_images(self) -> tuple[BadImage, ...]:
        """The bad images found so far."""
        return self._budget.found

    def batches(self) -> Generator[dict[str, np.ndarray]]:
        """Returns this process's blocks of one pass.

        Returns:
          Mappings as from `TrainStream.batches`, and `mask`: float32 of shape `(n,)`,
          1.0 for an example that counts.

        Raises:
          Exception: As from `TrainStream.batches`.
        """
        import grain

        numbers = grain.MapDataset.range(self.num_batches * self._batch_size)
        # Evaluation draws nothing, but transforms take a generator.
        examples = numbers.random_map(self._read, seed=0)
        blocks = examples.batch(self._local_size, batch_fn=collate)[self._block]
        batches = _iterate(blocks, self._num_workers)
        return self._budget.checked(batches, ("image", "label", "index", "mask"))


def _check(
    source: Source, batch_size: int, process_index: int, process_count: int
) -> None:
    if len(source) == 0:
        raise ValueError(
            f"dataset {source.name!r}, split {source.split!r}: got no examples, "
            "expected at least one."
        )
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size: got {batch_size}, expected a positive multiple of the "
            f"{process_count} processes."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index: got {process_index}, expected 0 to {process_count - 1}."
        )


@dataclasses.dataclass(frozen=True)
class _Order:
    """From a position in all epochs to the number of an example.

    Grain's own `shuffle` takes a tenth of a millisecond an index, as long as a tenth of
    a decoding, and shuffles epoch e of a seed as epoch 0 of the seed plus e.
    """

    num_examples: int
    epoch_size: int
    seed: int

    def __len__(self) -> int:
        return _NUM_EPOCHS * self.epoch_size

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.epoch_size)
        return int(_permutation(self.seed, epoch, self.num_examples)[place])


_NUM_EPOCHS = 2**31  # more than anyone will train


@functools.lru_cache(maxsize=4)  # blocks ahead may be of the next epoch
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    # RandomState's stream is frozen by NumPy's policy; Generator's is not, and another
    # order would change what a resumed run sees.
    return np.random.RandomState(bits).permutation(num_examples)


class _Budget:
    """Counts the different images that were bad, wherever they were read."""

    def __init__(self, allowed: int):
        self._allowed = allowed
        self._found: dict[int, BadImage] = {}

    @property
    def found(self) -> tuple[BadImage, ...]:
        return tuple(self._found.values())

    def checked(
        self, batches: Generator[Mapping[str, Any]], names: Sequence[str]
    ) -> Generator[dict[str, np.ndarray]]:
        """Passes batches on, and raises the errors in place of images."""
        try:
            for batch in batches:
                self._found.update(batch["bad"])
                if len(self._found) > self._allowed:
                    raise TooManyBadImagesError(self.found, self._allowed)
                if batch.get("error") is not None:
                    raise batch["error"]
                yield {name: batch[name] for name in names}
        finally:
            batches.close()


def _iterate(blocks: Any, num_workers: int) -> Generator[Any]:
    """Computes the entries of a Grain `MapDataset` in order, ahead of time."""
    import grain

    num_threads = WORKER_THREADS if num_workers else NUM_THREADS
    owner.remove_shared_memory_of_the_dead()
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=2 * num_threads
    )
    dataset = blocks.to_iter_dataset(options)
    if num_workers:
        from absl import flags

        # Grain passes absl's flags to its worker processes, which must be parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=num_workers, per_worker_buffer_size=2
            ),
            worker_init_fn=functools.partial(_prepare_worker, owner.this_process()),
        )
    iterator = iter(dataset)
    try:
        first = _first_of(iterator) if num_workers else []
        for batch in itertools.chain(first, iterator):
            # A worker's arrays are in memory shared with it, which is freed with them.
            yield _owned(batch) if num_workers else batch
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):  # Grain's words
            raise
        raise ChildProcessError(
            "A process that reads the data (num_workers) ended before its time, killed "
            f"for want of memory perhaps; no batch was skipped. {error}"
        ) from error
    finally:
        iterator.close()


def _first_of(iterator: Any) -> list[Any]:
    """Returns the first entry, or none, for which the worker processes are started.

    In a thread of its own: they inherit which signals it does not get.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def start() -> None:
        owner.begin_starting_workers()
        try:
            found.put(([next(iterator)], None))
        except StopIteration:
            found.put(([], None))
        except BaseException as error:
            found.put(([], error))

    threading.Thread(target=start, name="start-workers", daemon=True).start()
    entries, error = found.get()
    if error is not None:
        raise error
    return entries


def _prepare_worker(run: str, index: int, count: int) -> None:
    """Prepares a worker process.

    Args:
      run: The parent, for which it makes the memory that they share.
      index: The worker's number.
      count: How many there are.
    """
    owner.own_shared_memory(run)
    # A scheduler sends SIGTERM to every process, and the parent is to save first.
    signal.signal(signal.SIGTERM, _end_later)
    owner.begin_worker()


def _end_later(number: int, frame: FrameType | None) -> None:
    timer = threading.Timer(SECONDS_TO_SAVE, os._exit, [128 + number])
    timer.daemon = True
    timer.start()


def _owned(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: np.array(value) if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }
