"""Images per second of the input pipeline, part by part and end to end.

    python experiments/benchmarks/input_pipeline.py --report pipeline.html

Photographs that come with scikit-learn are cut into JPEG files of one size; a folder of
them and the same files as array_record are then decoded, augmented and batched. Rates
are images per second of processor time, so that they say what one core does, however
many work and whatever else the machine does. Beside the streams stand bare loops of
Pillow calls, in one thread and in as many as a stream has, and, where torch can be
imported, its `DataLoader`.

Two shares follow: what cutting a batch out of a resident dataset and augmenting it adds
to a training step of ResNet-20, and how much of the training time on a JPEG folder is
spent waiting for images.

Each of its parts is measured until `--repeats` rounds or `--max-seconds` are over; a
line says about how long the rest will take.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import io
import os
import pathlib
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import input_sheets
import jax
import jax.numpy as jnp
import numpy as np
import optax
from output import Steps, print_tables, write_report
from PIL import Image

import cnn_jax
from cnn_jax import data
from cnn_jax.analysis.timing import time_interleaved
from cnn_jax.data import device, host
from cnn_jax.data.prepare import prepare
from cnn_jax.data.stream import NUM_THREADS
from cnn_jax.files import write_output
from cnn_jax.report import html
from cnn_jax.report.environment import command_line, describe_environment
from cnn_jax.report.table import Column, Table, table_of
from cnn_jax.training import TrainConfig, TrainState, train_step
from cnn_jax.training.run.feeds import ResidentFeed
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import augment, image_format

SYNSETS = ("n01440764", "n01443537")
ALONE = "bare Pillow loop"
PEER = f"bare loops, {NUM_THREADS} threads"
"""The baseline of a stream."""
PIECES = {
    "crop to 224": host.RandomResizedCrop(224),
    "flip": host.RandomFlip(1.0),
    "colour jitter": host.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "RandAugment": host.RandAugment(),
    "AutoAugment": host.AutoAugment(),
    "erasing": host.RandomErasing(1.0),
}


def write_photographs(root: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes `root/train/CLASS/NUMBER.jpeg`: parts of two photographs."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    crop = host.RandomResizedCrop(1, scale=(0.3, 1.0))
    for label, (name, pixels) in enumerate(
        zip(SYNSETS, load_sample_images().images, strict=True)
    ):
        photograph = Image.fromarray(pixels)
        directory = root / "train" / name
        directory.mkdir(parents=True)
        for number in range(label, count, 2):
            box = crop.draw(photograph.size, random)
            part = photograph.resize(size, Image.Resampling.BICUBIC, box=box)
            part.save(directory / f"{name}_{number:05}.jpeg", quality=90)


def pack(root: pathlib.Path) -> None:
    """Packs the files as ImageNet is packed, and prepares them as array_record."""
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in SYNSETS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for path in sorted((root / "train" / name).iterdir()):
                    archive.add(path, path.name)
            member = tarfile.TarInfo(f"{name}.tar")
            member.size = inner.tell()
            inner.seek(0)
            outer.addfile(member, inner)
    prepare("imagenet2012", root, root / "tfds", check=False, progress=False)


def per_processor_second(
    runs: Mapping[str, Callable[[], int]], repeats: int, max_seconds: float
) -> dict[str, dict[str, float]]:
    """Runs functions in interleaved rounds, each of which returns its image count.

    A first round, which fills caches and starts threads, is not counted. After
    `max_seconds` no new one starts, but one always counts.

    Returns:
      For each, the median images per second of processor time, all threads of this
      process together, with the slowest and the fastest round's; the median of wall
      time; how many cores were busy, where a thread that
      something else left behind shows; and the number of rounds.
    """
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    order = list(runs)
    start = time.perf_counter()
    for number in range(repeats + 1):
        if number > 1 and time.perf_counter() - start >= max_seconds:
            break
        for name in order:
            wall, processor = time.perf_counter(), time.process_time()
            count = runs[name]()
            wall = time.perf_counter() - wall
            processor = time.process_time() - processor
            if number:
                rates[name].append((count / processor, count / wall))
        order.reverse()
    return {
        name: {
            "per_core": statistics.median(core for core, _ in found),
            "per_core_range": [min(found)[0], max(found)[0]],
            "per_second": statistics.median(wall for _, wall in found),
            "busy_cores": statistics.median(wall / core for core, wall in found),
            "rounds": len(found),
        }
        for name, found in rates.items()
    }


def measure_pieces(
    root: pathlib.Path, repeats: int, max_seconds: float
) -> list[dict[str, Any]]:
    """Returns the rate of decoding and of each transform, one image after the other."""
    files = [path.read_bytes() for path in sorted((root / "train").rglob("*.jpeg"))]
    files = files[:64]
    decoded = [host.open_image(file, origin="") for file in files]
    crops = [host.CenterCrop(224)(image) for image in decoded]
    random = np.random.default_rng(0)

    def decode(**options: Any) -> int:
        for file in files:
            host.open_image(file, origin="", **options)
        return len(files)

    def apply(transform: Any, sources: Sequence[Image.Image]) -> int:
        for image in sources:
            transform(image, random)
        return len(sources)

    runs: dict[str, Callable[[], int]] = {
        "decode": decode,
        "decode at half size": functools.partial(decode, smallest_side=180),
    }
    for name, piece in PIECES.items():
        sources = decoded if name.startswith("crop") else crops
        runs[name] = functools.partial(apply, piece, sources)
    rates = per_processor_second(runs, repeats, max_seconds)
    return [{"piece": name, **rate} for name, rate in rates.items()]


def measure_device_pieces(
    batch_size: int, repeats: int, max_seconds: float
) -> list[dict[str, Any]]:
    """Returns the rate of each transform on the device, compiled by itself."""
    key = jax.random.key(0)
    pixels = jax.random.bits(key, (batch_size, 224, 224, 3), jnp.uint8)
    normalise = functools.partial(device.normalize, mean=(0.5,) * 3, std=(0.25,) * 3)
    floats = normalise(pixels)
    targets = device.one_hot_targets(jnp.arange(batch_size) % 2, 2)
    pieces = {
        "crop by 4 pixels": (functools.partial(device.random_crop, padding=4), pixels),
        "flip": (device.random_flip, pixels),
        "normalise": (lambda _, images: normalise(images), pixels),
        "erasing": (functools.partial(device.random_erasing, probability=1.0), floats),
        "mixup": (functools.partial(device.mixup, alpha=1.0), floats, targets),
        "CutMix": (functools.partial(device.cutmix, alpha=1.0), floats, targets),
    }

    def apply(compiled: Callable[..., Any], arguments: Sequence[jax.Array]) -> int:
        jax.block_until_ready(compiled(key, *arguments))
        return batch_size

    runs = {
        name: functools.partial(apply, jax.jit(function), arguments)
        for name, (function, *arguments) in pieces.items()
    }
    rates = per_processor_second(runs, repeats, max_seconds)
    return [{"piece": name, **rate} for name, rate in rates.items()]


def bare_loops(paths: Sequence[pathlib.Path], batch_size: int) -> int:
    """Runs a bare loop in as many threads as a stream has, so that as much is busy."""
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        shares = [paths[start::NUM_THREADS] for start in range(NUM_THREADS)]
        return sum(pool.map(lambda share: bare_loop(share, batch_size), shares))


def bare_loop(paths: Sequence[pathlib.Path], batch_size: int) -> int:
    """Opens, decodes, crops and stacks with nothing but Pillow and NumPy."""
    random, crop = np.random.default_rng(0), host.RandomResizedCrop(224)
    count = 0
    for start in range(0, len(paths), batch_size):
        batch = []
        for path in paths[start : start + batch_size]:
            image = Image.open(path).convert("RGB")
            box = crop.draw(image.size, random)
            image = image.resize((224, 224), Image.Resampling.BILINEAR, box=box)
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            batch.append(np.asarray(image))
        count += len(np.stack(batch))
    return count


def run_stream(stream: data.TrainStream, num_batches: int) -> int:
    """Takes batches from a stream that makes no more than these."""
    batches = stream.batches(0, num_batches)
    return sum(len(batch["label"]) for batch in batches)


def torch_loader(paths: Sequence[pathlib.Path], batch_size: int) -> Callable[[], int]:
    """Returns a pass over torch's DataLoader with the same transforms.

    Raises:
      ImportError: If torch is not installed.
    """
    import torch.utils.data

    transform, random = data.train_transform("inception", 224), np.random.default_rng(0)

    class Photographs(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            image = Image.open(paths[index]).convert("RGB")
            return torch.from_numpy(np.array(transform(image, random)))

    loader = torch.utils.data.DataLoader(
        Photographs(), batch_size, shuffle=True, drop_last=True
    )
    return lambda: sum(len(batch) for batch in loader)


def measure_streams(
    root: pathlib.Path, batch_size: int, repeats: int, max_seconds: float
) -> list[dict[str, Any]]:
    """Returns end-to-end rates: read, decode, crop, flip, batch.

    Streams are compared with bare loops in as many threads, since cores that share a
    memory do less each when more of them work.
    """
    paths = sorted((root / "train").rglob("*.jpeg"))
    transform = data.train_transform("inception", 224)

    def stream(name: str) -> Callable[[], int]:
        source = data.open_source(name, "train", data_dir=root / "tfds")
        made = data.TrainStream(source, batch_size=batch_size, transform=transform)
        return functools.partial(run_stream, made, made.steps_per_epoch)

    runs: dict[str, Callable[[], int]] = {
        ALONE: functools.partial(bare_loop, paths, batch_size),
        PEER: functools.partial(bare_loops, paths, batch_size),
        "stream, JPEG folder": stream(f"folder:{root}"),
        "stream, array_record": stream("imagenet2012"),
    }
    with contextlib.suppress(ImportError):
        runs["torch DataLoader"] = torch_loader(paths, batch_size)
    rates = per_processor_second(runs, repeats, max_seconds)
    bare = rates[PEER]["per_core"]
    return [
        {"pipeline": name, **rate, "relative": rate["per_core"] / bare}
        for name, rate in rates.items()
    ]


def measure_resident(
    batch_size: int, repeats: int, max_seconds: float
) -> dict[str, Any]:
    """Returns what cutting and augmenting a batch adds to a ResNet-20 step."""
    random = np.random.default_rng(0)
    dataset = data.Dataset(
        name="noise",
        split="train",
        images=random.integers(0, 256, (8 * batch_size, 32, 32, 3), np.uint8),
        labels=random.integers(0, 10, 8 * batch_size),
        class_names=tuple("0123456789"),
    )
    config = TrainConfig(batch_size=batch_size, crop_padding=4, flip=True)
    mesh = cnn_jax.sharding.make_mesh(jax.devices()[:1])
    feed = ResidentFeed(dataset, batch_size, 0, mesh)
    images = image_format(config, dataset)
    model = cnn_jax.create_model("resnet20", num_classes=10)
    state = TrainState.create(
        model, optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    key = jax.random.key(1)

    def whole(state, inputs):
        step_key = jax.random.fold_in(key, state.step)
        batch, model_key = augment(
            step_key, feed.batch(inputs, state.step), config, 10, images
        )
        return train_step(state, batch, model_key)

    def alone(state, inputs):
        batch = feed.batch(inputs, state.step)
        return augment(key, batch, config, 10, images)[0]

    def bare(state, batch):
        return train_step(state, batch, jax.random.fold_in(key, state.step))

    inputs = feed.inputs(0)
    ready, _ = augment(key, feed.batch(inputs, state.step), config, 10, images)
    calls = {
        name: functools.partial(jax.jit(function), state, argument)
        for name, function, argument in (
            ("whole", whole, inputs),
            ("bare", bare, ready),
            ("alone", alone, inputs),
        )
    }
    timings = time_interleaved(calls, repeats=repeats, max_seconds=max_seconds)
    whole, bare, alone = (timings[name].seconds for name in ("whole", "bare", "alone"))
    added = [one / other - 1 for one, other in zip(whole, bare, strict=True)]
    shares = [one / other for one, other in zip(alone, bare, strict=True)]
    return {
        "batch_size": batch_size,
        "rounds": len(added),
        "step_seconds": timings["whole"].median,
        "bare_step_seconds": timings["bare"].median,
        "alone_seconds": timings["alone"].median,
        "alone_share": statistics.median(shares),
        "added_share": statistics.median(added),
        "least_added": min(added),
        "most_added": max(added),
    }


def measure_waiting(root: pathlib.Path, batch_size: int) -> dict[str, Any]:
    """Trains ResNet-20 on the folder, cut to 64 pixels, and returns the waiting."""
    source = data.open_source(f"folder:{root}", "train")
    config = TrainConfig(
        image_size=64,
        augmentation="inception",
        batch_size=batch_size,
        epochs=2,
        log_every_steps=1000,
    )
    model = cnn_jax.create_model("resnet20", num_classes=2)
    mesh = cnn_jax.sharding.make_mesh(jax.devices()[:1])
    result = fit(model, source, test=source, config=config, progress=False, mesh=mesh)
    return {
        "model": "resnet20",
        "image_size": 64,
        "batch_size": batch_size,
        "images_per_second": result.images_per_second,
        "waiting_share": result.waiting_share,
    }


_RATES = (
    Column("per_core", "per core", "images/s", ",.0f"),
    Column("per_second", "in all", "images/s", ",.0f"),
    Column("busy_cores", "busy", "cores", ".1f"),
)
_RATES_MEAN = (
    "Per core: images over seconds of processor time, of all threads of the process "
    "together. In all: over wall time. Busy: processor time over wall time. Medians of "
    "interleaved rounds."
)
_PIECE = Column("piece", "part")
_BATCH = Column("batch_size", "batch", format_spec="d")
_PERCENT = {"unit": "%", "format_spec": ".1f", "scale": 100}


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of a report."""
    size = " x ".join(map(str, report["file_size"]))
    return [
        table_of(
            f"On the host, one image after the other, JPEG files of {size}",
            (_PIECE, *_RATES),
            report["pieces"],
        ),
        table_of(
            "On the device, batches of 224 x 224", (_PIECE, *_RATES), report["device"]
        ),
        table_of(
            "Read, decode, crop to 224, flip, batch",
            (
                Column("pipeline", "pipeline"),
                *_RATES,
                Column(
                    "relative",
                    "of bare",
                    format_spec=".2f",
                    note=f"Images per second and core, over those of the {PEER}.",
                ),
            ),
            report["streams"],
        ),
        table_of(
            "ResNet-20 step, 32 x 32, data on the device",
            (
                _BATCH,
                Column("step_seconds", "whole step", "ms", ".0f", 1e3),
                Column("bare_step_seconds", "ready batch", "ms", ".0f", 1e3),
                Column(
                    "alone_seconds",
                    "batch alone",
                    "ms",
                    ".2f",
                    1e3,
                    note="Cutting the batch out, cropping, flipping and normalising "
                    "it, as a program of its own.",
                ),
                Column("alone_share", "of the step", **_PERCENT),
                Column(
                    "added_share",
                    "added",
                    **_PERCENT,
                    note="By the same inside the step: median, least and most of the "
                    "rounds' ratios.",
                ),
                Column("least_added", "least", **_PERCENT),
                Column("most_added", "most", **_PERCENT),
                Column("rounds", "rounds", format_spec="d"),
            ),
            [report["resident"]],
        ),
        table_of(
            "Training ResNet-20 on the JPEG folder, cut to 64 x 64",
            (
                _BATCH,
                Column("images_per_second", "images/s", format_spec=",.0f"),
                Column(
                    "waiting_share",
                    "waiting",
                    **_PERCENT,
                    note="Training time spent waiting for images. On a CPU, decoding "
                    "takes its cores from the step.",
                ),
            ),
            [report["waiting"]],
        ),
    ]


def page(report: Mapping[str, Any]) -> str:
    """Returns the HTML report."""
    rates = {result["pipeline"]: result["per_core"] for result in report["streams"]}
    stream, resident = rates["stream, JPEG folder"], report["resident"]
    summary = (
        "Per core, the stream over a JPEG folder does "
        f"{stream / rates[PEER]:.0%} of the images per second of bare Pillow loops in "
        f"as many threads, {stream / rates[ALONE]:.0%} of those of one loop alone. "
        "Cutting a batch out of a resident dataset and augmenting it takes "
        f"{resident['alone_share']:.1%} of a ResNet-20 step when run alone; inside the "
        f"step it adds {resident['added_share']:.1%}"
    )
    if resident["least_added"] < 0 < resident["most_added"]:
        summary += ", which is within the noise"
    summary += (
        f" (rounds from {resident['least_added']:.1%} to {resident['most_added']:.1%})."
    )
    environment = describe_environment()
    facts = {
        "Processor": f"{environment.cpu}, {environment.num_cores} cores",
        "Load before": f"{report['load_before']:.1f} processes ready to run on average "
        "over the minute before: above 0, other work may have slowed this one down",
        "Versions": ", ".join(f"{k} {v}" for k, v in environment.versions.items()),
        "Date": environment.date,
    }
    shown = [input_sheets.host_sheets(), input_sheets.device_sheets()]
    sections = [
        html.Section("Rates", [html.Paragraph(_RATES_MEAN), *tables(report)]),
        html.Section("What the policies do on the host", [html.Charts(list(shown[0]))]),
        html.Section("What is done on the device", [html.Charts(list(shown[1]))]),
        html.Section("How it was made", [html.Code(command_line()), html.Facts(facts)]),
    ]
    return html.render_page("The input pipeline", summary, sections, kicker="cnn_jax")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--files", type=int, default=256, help="how many JPEG files")
    add("--size", type=int, nargs=2, default=(500, 375), help="their width and height")
    add("--batch-size", type=int, default=128, help="images of a batch")
    add("--repeats", type=int, default=7, help="rounds")
    add("--max-seconds", type=float, default=40, help="a part's rounds end after this")
    add("--json", type=pathlib.Path, help="write the results to this file")
    add("--report", type=pathlib.Path, help="write an HTML page to this file")
    add("--markdown", action="store_true", help="print tables for a README")
    options = parser.parse_args(arguments)
    if not 0 < options.batch_size <= options.files:
        parser.error("--batch-size: expected 1 to the number of --files")
    if options.repeats < 1:
        parser.error("--repeats: expected at least 1")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        steps = Steps(6)
        steps.begin(f"writing {options.files} files")
        write_photographs(root, options.files, tuple(options.size))
        pack(root)
        report: dict[str, Any] = {
            "file_size": list(options.size),
            "load_before": load_before,
        }
        limits = options.repeats, options.max_seconds
        steps.begin("parts")
        report["pieces"] = measure_pieces(root, *limits)
        steps.begin("streams")
        report["streams"] = measure_streams(root, options.batch_size, *limits)
        steps.begin("parts on the device")
        report["device"] = measure_device_pieces(options.batch_size, *limits)
        steps.begin("resident data")
        report["resident"] = measure_resident(options.batch_size, *limits)
        steps.begin("waiting")
        report["waiting"] = measure_waiting(root, options.batch_size)
    print_tables(tables(report), as_markdown=options.markdown)
    if options.json:
        write_report(options.json, [report])
    if options.report:
        write_output(options.report, page(report))
        print(options.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
