"""Streams: the same examples in the same order, whoever computes them."""

import collections
import dataclasses
import itertools
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from helpers.data_workers import find_data_workers

from cnn_jax import data
from cnn_jax.data.host import Compose, RandomFlip, RandomResizedCrop
from cnn_jax.data.source import Example, Features
from cnn_jax.preprocessing import Preprocessing

ROOT = pathlib.Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
SIZE = 8
TRANSFORM = Compose((RandomResizedCrop(SIZE), RandomFlip()))
BATCH_SIZE = 6  # three batches an epoch; five of 23 examples are left out


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Images that show gradients, so that each crop differs, and their own number."""

    count: int = 23
    wrong_label_at: int = -1
    name: str = "numbers"
    split: str = "train"
    class_names: tuple[str, ...] = ("even", "odd")
    channels: int = 3
    fingerprint: str = "numbers"

    @property
    def features(self):
        return Features((20, 20, self.channels), encoded=False)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rows, columns = np.mgrid[:20, :20].astype(np.uint8)
        pixels = np.stack([rows * 12, columns * 12, np.full_like(rows, index)], -1)
        label = 2 if index == self.wrong_label_at else index % 2
        return Example(pixels[..., -self.channels :], label, f"numbers[{index}]")


def take(stream, count, start_step=0):
    batches = stream.batches(start_step)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def make(source=None, **options):
    settings = {"batch_size": BATCH_SIZE, "transform": TRANSFORM, "seed": 5, **options}
    return data.TrainStream(Numbers() if source is None else source, **settings)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def undisturbed():
    """Ten batches, three epochs and one batch of the fourth, from one process."""
    return take(make(), 10)


def test_a_batch_holds_what_it_says(undisturbed):
    for batch in undisturbed:
        assert batch["image"].shape == (BATCH_SIZE, SIZE, SIZE, 3)
        assert batch["image"].dtype == np.uint8
        assert (batch["label"].dtype, batch["index"].dtype) == (np.int32, np.int64)
        np.testing.assert_array_equal(batch["label"], batch["index"] % 2)
        # The blue channel is the example's number, and survives crop and flip.
        assert np.all(batch["image"][..., 2] == batch["index"][:, None, None])


def test_an_epoch_shows_nothing_twice_and_each_leaves_others_out(undisturbed):
    assert make().steps_per_epoch == 3
    epochs = [
        np.concatenate([batch["index"] for batch in undisturbed[start : start + 3]])
        for start in (0, 3, 6)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == 18
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) == 3


def test_seeds_are_far_apart(undisturbed):
    ids = np.stack([batch["index"] for batch in undisturbed])
    for seed in range(20):
        if seed != 5:
            # Not even another seed's later epoch.
            other = np.stack([batch["index"] for batch in take(make(seed=seed), 3)])
            assert not any(np.array_equal(other, ids[at : at + 3]) for at in (0, 3, 6))


def test_the_same_example_is_cropped_anew_in_each_epoch(undisturbed):
    seen = {}
    for batch in undisturbed:
        for index, image in zip(batch["index"], batch["image"], strict=True):
            seen.setdefault(int(index), []).append(image.tobytes())
    again = [images for images in seen.values() if len(images) == 3]
    assert len(again) > 5
    assert sum(len(set(images)) == 3 for images in again) > 0.8 * len(again)


# The first, a middle and the last step of an epoch, and the first of the next.
@pytest.mark.parametrize("start", [0, 1, 2, 3, 7])
def test_continuing_gives_the_rest(undisturbed, start):
    assert_same(take(make(), 10 - start, start), undisturbed[start:])


def test_a_stream_can_have_an_end(undisturbed):
    assert_same(list(make().batches(2, 5)), undisturbed[2:5])


def join(blocks):
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*blocks, strict=True)
    ]


@pytest.mark.parametrize("process_count", [2, 3])
def test_processes_read_blocks_that_make_up_the_batch(undisturbed, process_count):
    def blocks(count, start):
        return [
            take(make(process_index=index, process_count=process_count), count, start)
            for index in range(process_count)
        ]

    # Four steps in shards, the rest in one process, and the other way round.
    assert_same(join(blocks(4, 0)), undisturbed[:4])
    assert_same(take(make(), 6, 4), undisturbed[4:])
    assert_same(join(blocks(6, 4)), undisturbed[4:])


@pytest.mark.parametrize("num_workers", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_workers_compute_the_same(undisturbed, num_workers):
    stream = make(num_workers=num_workers)
    assert_same(take(stream, 8, 2), undisturbed[2:])


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_continue_wherever_it_was(undisturbed, num_workers, start):
    stream = make(num_workers=num_workers)
    assert_same(take(stream, 10 - start, start), undisturbed[start:])


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.parametrize("is_closed", [True, False])
def test_workers_end_with_the_iterator(is_closed):
    batches = make(num_workers=2).batches()
    next(batches)
    assert len(find_data_workers()) == 2
    if is_closed:
        batches.close()
    del batches
    assert wait_until(lambda: not find_data_workers())


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_is_noticed_within_seconds(num_workers):
    batches = make(num_workers=num_workers).batches()
    next(batches)
    os.kill(min(find_data_workers()), signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(ChildProcessError, match=r"no batch was skipped.*exit code -9"):
        collections.deque(itertools.islice(batches, 1000), maxlen=0)
    assert time.monotonic() - started < 20
    assert wait_until(lambda: not find_data_workers())


@pytest.mark.slow
def test_workers_leave_ctrl_c_to_their_parent(undisturbed):
    batches = make(num_workers=1).batches()
    found = [next(batches)]
    for pid in find_data_workers():
        os.kill(pid, signal.SIGINT)
    found += itertools.islice(batches, 9)
    batches.close()
    assert_same(found, undisturbed)


def is_running(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


KILLED = """
    import os
    import signal

    from helpers.data_workers import find_data_workers

    from cnn_jax import data
    from cnn_jax.preprocessing import Preprocessing

    if __name__ == "__main__":
        source = data.open_source("synthetic:8x8x3", "train")
        stream = data.TrainStream(
            source,
            batch_size=4,
            transform=data.eval_transform(Preprocessing(8)),
            num_workers=2,
        )
        batches = stream.batches()
        next(batches)
        print(*find_data_workers(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_run(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    # A file, since a pipe would stay open as long as any worker lives.
    with open(tmp_path / "output", "w") as output:
        done = subprocess.run(
            [sys.executable, str(script)],
            stdout=output,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": PATHS, "JAX_PLATFORMS": "cpu"},
            timeout=100,
            check=False,
        )
    assert done.returncode == -signal.SIGKILL
    pids = (tmp_path / "output").read_text().split()
    assert len(pids) == 2
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))


@dataclasses.dataclass(frozen=True)
class Fails:
    """A transform that cannot do its work, with an error that cannot be sent on."""

    can_be_sent: bool = True

    def __call__(self, image, generator):
        error = KeyError("no such colour")
        if not self.can_be_sent:
            error.lock = threading.Lock()
        raise error


@pytest.mark.parametrize(
    ("num_workers", "can_be_sent", "kind"),
    [
        (0, True, KeyError),
        (0, False, KeyError),
        pytest.param(2, True, KeyError, marks=pytest.mark.slow),
        pytest.param(1, False, RuntimeError, marks=pytest.mark.slow),
    ],
)
def test_an_error_arrives_and_says_where(num_workers, can_be_sent, kind):
    stream = make(transform=Fails(can_be_sent), num_workers=num_workers)
    with pytest.raises(kind, match="no such colour") as error:
        take(stream, 1)
    notes = "".join(error.value.__notes__)
    assert "While reading numbers train[" in notes
    assert ("in __call__" in notes) == (num_workers > 0)
    assert wait_until(lambda: not find_data_workers())


@dataclasses.dataclass(frozen=True)
class Modules:
    """Paints what the process that runs it has imported."""

    def __call__(self, image, generator):
        from jax._src import xla_bridge

        has_backend = xla_bridge.backends_are_initialized()
        for name in ("tensorflow", "torch", "tensorflow_datasets"):
            assert name not in sys.modules
        assert not has_backend
        return image.resize((SIZE, SIZE))


@pytest.mark.slow
def test_workers_import_no_tensorflow_and_touch_no_device():
    assert len(take(make(transform=Modules(), num_workers=1), 2)) == 2


@pytest.mark.slow
def test_shards_with_workers_and_evaluation_with_workers(undisturbed):
    blocks = [
        take(make(process_index=index, process_count=2, num_workers=2), 6, 2)
        for index in range(2)
    ]
    assert_same(join(blocks), undisturbed[2:8])
    found = {}
    for num_workers in (0, 2):
        stream = data.EvalStream(
            Numbers(),
            batch_size=BATCH_SIZE,
            transform=data.eval_transform(Preprocessing(SIZE)),
            num_workers=num_workers,
        )
        found[num_workers] = list(stream.batches())
    assert_same(found[2], found[0])


@pytest.mark.slow
def test_workers_report_bad_images_as_threads_do(damaged):
    source = data.open_source(f"folder:{damaged}", "train")
    streams = [make(source, max_bad_images=2, num_workers=count) for count in (0, 2)]
    assert_same(take(streams[1], 9), take(streams[0], 9))
    assert streams[1].bad_images == streams[0].bad_images
    assert len(streams[0].bad_images) == 2
    with pytest.raises(data.TooManyBadImagesError, match="expected no more than 1"):
        take(make(source, max_bad_images=1, num_workers=2), 9)


def test_the_order_is_the_one_of_runs_that_were_saved():
    # A checkpoint holds a step's number alone: another shuffle would continue old runs
    # with other examples. Regenerate only with a note to users.
    assert [batch["index"].tolist() for batch in take(make(), 4)] == [
        [0, 20, 1, 18, 3, 17],
        [2, 21, 5, 13, 16, 7],
        [14, 8, 4, 12, 22, 15],
        [11, 4, 19, 15, 14, 1],
    ]


@pytest.fixture
def damaged(folder, tmp_path):
    """The folder with two of its training images cut short."""
    root = shutil.copytree(folder, tmp_path / "damaged")
    for name in ("dog/0001.png", "owl/0008.png"):
        path = root / "train" / name
        path.write_bytes(path.read_bytes()[:30])
    return root


def test_a_bad_image_ends_the_run_and_is_named(damaged):
    stream = make(data.open_source(f"folder:{damaged}", "train"))
    with pytest.raises(
        data.TooManyBadImagesError, match="expected no more than 0"
    ) as error:
        take(stream, 3)
    assert "dog/0001.png: " in str(error.value) or "owl/0008.png: " in str(error.value)
    assert isinstance(error.value, data.ImageError)


def test_one_bad_image_too_many_names_both(damaged):
    source = data.open_source(f"folder:{damaged}", "train")
    with pytest.raises(data.TooManyBadImagesError, match="2 unreadable") as error:
        take(make(source, max_bad_images=1), 9)
    assert "dog/0001.png: " in str(error.value)
    assert "owl/0008.png: " in str(error.value)


def test_bad_images_within_the_budget_move_no_other(folder, damaged):
    whole = take(make(data.open_source(f"folder:{folder}", "train")), 9)
    stream = make(data.open_source(f"folder:{damaged}", "train"), max_bad_images=2)
    found = take(stream, 9)
    source = data.open_source(f"folder:{folder}", "train")
    bad = {
        index
        for index in range(len(source))
        if source[index].origin.endswith(("dog/0001.png", "owl/0008.png"))
    }
    assert len(bad) == 2
    replaced = 0
    for one, other in zip(found, whole, strict=True):
        moved = one["index"] != other["index"]
        assert set(other["index"][moved]) <= bad
        # The next one of the source stands in for it, with its own label and pixels.
        np.testing.assert_array_equal(
            one["index"][moved], (other["index"][moved] + 1) % len(source)
        )
        np.testing.assert_array_equal(
            one["label"], [source[int(index)].label for index in one["index"]]
        )
        np.testing.assert_array_equal(one["image"][~moved], other["image"][~moved])
        replaced += moved.sum()
    assert replaced > 2
    assert sorted(image.origin[-12:] for image in stream.bad_images) == [
        "dog/0001.png",
        "owl/0008.png",
    ]


def test_a_file_that_went_away_is_a_bad_image(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "shrinking")
    source = data.open_source(f"folder:{root}", "train")
    shutil.rmtree(root / "train" / "dog")
    with pytest.raises(data.TooManyBadImagesError, match="No such file"):
        take(make(source), 9)


def test_a_label_out_of_range_ends_the_run():
    with pytest.raises(
        data.LabelError, match=r"numbers\[7\]: got the label 2, expected 0 to 1"
    ) as error:
        take(make(Numbers(wrong_label_at=7)), 9)
    assert error.value.origin == "numbers[7]"


@pytest.mark.parametrize("label", [0.5, True, "0"])
def test_a_label_that_is_no_integer_ends_the_run(label):
    class Wrong(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(label=label)

    with pytest.raises(data.LabelError, match=f"label {label!r}, expected an integer"):
        take(make(Wrong()), 1)


def test_sizes_of_a_narrow_dtype_stay_whole():
    narrow, wide = (
        make(Numbers(count=250), batch_size=size) for size in (np.uint8(60), 60)
    )
    assert narrow.steps_per_epoch == wide.steps_per_epoch == 4
    assert_same(take(narrow, 5), take(wide, 5))
    stream = data.EvalStream(
        Numbers(count=250), batch_size=np.uint8(60), transform=TRANSFORM
    )
    assert stream.num_batches == 5


def test_no_bad_image_hides_a_wrong_label():
    # It is not an image that can be skipped.
    with pytest.raises(data.LabelError):
        take(make(Numbers(wrong_label_at=7), max_bad_images=5), 9)


def test_errors_survive_the_way_out_of_a_process():
    bad = (data.BadImage("a.jpg", "torn"), data.BadImage("b.jpg", "empty"))
    for error in (
        data.TooManyBadImagesError(bad, 1),
        data.LabelError("a.jpg", "got the label 7"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.origin) == (str(error), error.origin)


def test_a_step_before_the_first_is_refused():
    with pytest.raises(ValueError, match="start_step: got -1"):
        make().batches(-1)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Numbers(0), {}, "got no examples"),
        (Numbers(5), {}, "batch_size: got 6, expected 1 to 5, the number of examples"),
        (Numbers(), {"process_count": 4}, "positive multiple of the 4 processes"),
        (Numbers(), {"process_index": 1}, "process_index: got 1, expected 0 to 0"),
    ],
)
def test_what_cannot_be_streamed_is_said_at_once(source, options, message):
    with pytest.raises(ValueError, match=message):
        make(source, **options)


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 6, 17, 23])
def test_evaluation_shows_every_example_once(count, process_count):
    streams = [
        data.EvalStream(
            Numbers(count),
            batch_size=BATCH_SIZE,
            transform=data.eval_transform(Preprocessing(SIZE)),
            process_index=index,
            process_count=process_count,
        )
        for index in range(process_count)
    ]
    blocks = [list(stream.batches()) for stream in streams]
    assert {len(each) for each in blocks} == {streams[0].num_batches}
    batches = join(blocks)
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.sum() == count
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index[mask > 0], np.arange(count))
    images = np.concatenate([batch["image"] for batch in batches])
    assert images.shape == (len(mask), SIZE, SIZE, 3)
    assert not images[mask == 0].any()


def test_evaluation_masks_bad_images_within_the_budget(damaged):
    source = data.open_source(f"folder:{damaged}", "train")
    options = {
        "batch_size": BATCH_SIZE,
        "transform": data.eval_transform(Preprocessing(SIZE)),
    }
    stream = data.EvalStream(source, max_bad_images=2, **options)
    assert sum(batch["mask"].sum() for batch in stream.batches()) == 21
    assert len(stream.bad_images) == 2
    with pytest.raises(data.TooManyBadImagesError):
        list(data.EvalStream(source, **options).batches())


def test_grayscale_stays_grayscale():
    (batch,) = take(make(Numbers(channels=1)), 1)
    assert batch["image"].shape == (BATCH_SIZE, SIZE, SIZE, 1)
    assert np.all(batch["image"][..., 0] == batch["index"][:, None, None])
