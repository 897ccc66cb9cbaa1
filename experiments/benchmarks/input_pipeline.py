"""Images per second of the input pipeline, part by part and end to end.

    python experiments/benchmarks/input_pipeline.py --report pipeline.html

Photographs that come with scikit-learn are cut into JPEG files of one size; a folder of
them and the same files as array_record are then decoded, augmented and batched. Rates
are images per second of processor time, so that they say what one core does, however
many work and whatever else the machine does. Beside the streams stand a bare loop of
Pillow calls, in as many threads, and, where torch can be imported, its `DataLoader`.

Two shares follow: what cutting a batch out of a resident dataset and augmenting it adds
to a training step of ResNet-20, and how much of the training time on a JPEG folder is
spent waiting for images.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import io
import pathlib
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from output import print_tables, table_of, write_report
from PIL import Image

import cnn_jax
from cnn_jax import data
from cnn_jax.analysis.timing import time_interleaved
from cnn_jax.data import host
from cnn_jax.data.prepare import prepare
from cnn_jax.data.stream import NUM_THREADS
from cnn_jax.report import html, images
from cnn_jax.report.environment import command_line, describe_environment
from cnn_jax.report.table import Column, Table
from cnn_jax.training import TrainConfig, TrainState, train_step
from cnn_jax.training.feeds import ResidentFeed
from cnn_jax.training.loop import fit
from cnn_jax.training.programs import augment, preparation

SYNSETS = ("n01440764", "n01443537")
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
    runs: Mapping[str, Callable[[], int]], repeats: int
) -> dict[str, dict[str, float]]:
    """Runs functions in interleaved rounds, each of which returns its image count.

    Returns:
      For each, the median images per second of processor time, all threads of this
      process together, and of wall time.
    """
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    order = list(runs)
    for number in range(repeats + 1):
        for name in order:
            wall, processor = time.perf_counter(), time.process_time()
            count = runs[name]()
            wall = time.perf_counter() - wall
            processor = time.process_time() - processor
            if number:  # the first round fills caches and starts threads
                rates[name].append((count / processor, count / wall))
        order.reverse()
    return {
        name: {
            "per_core": statistics.median(rate for rate, _ in found),
            "per_second": statistics.median(rate for _, rate in found),
        }
        for name, found in rates.items()
    }


def measure_pieces(root: pathlib.Path, repeats: int) -> list[dict[str, Any]]:
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
    rates = per_processor_second(runs, repeats)
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
    root: pathlib.Path, batch_size: int, repeats: int
) -> list[dict[str, Any]]:
    """Returns end-to-end rates: read, decode, crop, flip, batch."""
    paths = sorted((root / "train").rglob("*.jpeg"))
    transform = data.train_transform("inception", 224)

    def stream(name: str) -> Callable[[], int]:
        source = data.open_source(name, "train", data_dir=root / "tfds")
        made = data.TrainStream(source, batch_size=batch_size, transform=transform)
        return functools.partial(run_stream, made, made.steps_per_epoch)

    runs: dict[str, Callable[[], int]] = {
        "bare Pillow loop": functools.partial(bare_loops, paths, batch_size),
        "stream, JPEG folder": stream(f"folder:{root}"),
        "stream, array_record": stream("imagenet2012"),
    }
    with contextlib.suppress(ImportError):
        runs["torch DataLoader"] = torch_loader(paths, batch_size)
    rates = per_processor_second(runs, repeats)
    bare = rates["bare Pillow loop"]["per_core"]
    return [
        {"pipeline": name, **rate, "relative": rate["per_core"] / bare}
        for name, rate in rates.items()
    ]


def measure_resident(batch_size: int, repeats: int) -> dict[str, Any]:
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
    prepare_images = preparation(config, dataset)
    model = cnn_jax.create_model("resnet20", num_classes=10)
    state = TrainState.create(
        model, optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    key = jax.random.key(1)

    def whole(state, inputs):
        step_key = jax.random.fold_in(key, state.step)
        batch, model_key = augment(
            step_key, feed.batch(inputs, state.step), config, 10, prepare_images
        )
        return train_step(state, batch, model_key)

    def bare(state, batch):
        return train_step(state, batch, jax.random.fold_in(key, state.step))

    inputs = feed.inputs(0)
    ready, _ = augment(key, feed.batch(inputs, state.step), config, 10, prepare_images)
    calls = {
        name: functools.partial(jax.jit(function), state, argument)
        for name, function, argument in (
            ("whole", whole, inputs),
            ("bare", bare, ready),
        )
    }
    timings = time_interleaved(calls, repeats=repeats)
    seconds = {name: timing.median for name, timing in timings.items()}
    pairs = zip(timings["whole"].seconds, timings["bare"].seconds, strict=True)
    return {
        "batch_size": batch_size,
        "rounds": len(timings["bare"].seconds),
        "step_seconds": seconds["whole"],
        "bare_step_seconds": seconds["bare"],
        "added_share": statistics.median(one / other for one, other in pairs) - 1,
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
    result = fit(model, config, source, source, progress=False, mesh=mesh)
    return {
        "model": "resnet20",
        "image_size": 64,
        "batch_size": batch_size,
        "images_per_second": result.images_per_second,
        "waiting_share": result.waiting_share,
    }


def sheets() -> Iterator[html.Picture]:
    """Yields a contact sheet of 64 pictures for every policy, host's then device's."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for policy in host.POLICIES:
        transform = data.train_transform(policy, 64)
        yield _picture(
            policy,
            [
                np.asarray(transform(photographs[n // 32], np.random.default_rng(n)))
                for n in range(64)
            ],
            "64 draws, half of each photograph",
        )
    plain = data.train_transform("inception", 64)
    batch = np.stack(
        [
            np.asarray(plain(photographs[n % 2], np.random.default_rng(n)))
            for n in range(64)
        ]
    )
    normalised = data.normalize(jnp.asarray(batch), (0.5,) * 3, (0.25,) * 3)
    labels = data.one_hot_targets(jnp.arange(64) % 2, 2)
    key = jax.random.key(3)
    device = {
        "erasing on the device": data.random_erasing(key, normalised, 0.5),
        "mixup": data.mixup_or_cutmix(
            key, normalised, labels, mixup_alpha=1.0, cutmix_alpha=0.0
        )[0],
        "CutMix": data.mixup_or_cutmix(
            key, normalised, labels, mixup_alpha=0.0, cutmix_alpha=1.0
        )[0],
    }
    for name, changed in device.items():
        pixels = np.clip((np.asarray(changed) * 0.25 + 0.5) * 255, 0, 255)
        yield _picture(name, pixels.astype(np.uint8), "one batch of 64")


def _picture(title: str, pictures: Any, caption: str) -> html.Picture:
    sheet = images.contact_sheet(pictures, columns=8)
    return html.Picture(images.data_uri(sheet, quality=80), title, caption)


_RATES = (
    Column("per_core", "images/s per core", format_spec=",.0f"),
    Column("per_second", "images/s", format_spec=",.0f"),
)


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of a report."""
    size = " x ".join(map(str, report["file_size"]))
    return [
        table_of(
            f"Parts, one image after the other, JPEG files of {size}",
            (Column("piece", "part"), *_RATES),
            report["pieces"],
        ),
        table_of(
            "Read, decode, crop to 224, flip, batch",
            (
                Column("pipeline", "pipeline"),
                *_RATES,
                Column("relative", "per core, of the bare loop", format_spec=".2f"),
            ),
            report["streams"],
        ),
        table_of(
            "ResNet-20 step, 32 x 32, data on the device",
            (
                Column("batch_size", "batch", format_spec="d"),
                Column("step_seconds", "whole step", "ms", ".0f", 1e3),
                Column("bare_step_seconds", "on a ready batch", "ms", ".0f", 1e3),
                Column(
                    "added_share", "added by cutting and augmenting", "%", ".1f", 100
                ),
            ),
            [report["resident"]],
        ),
        table_of(
            "Training ResNet-20 on the JPEG folder, cut to 64 x 64",
            (
                Column("batch_size", "batch", format_spec="d"),
                Column("images_per_second", "images/s", format_spec=",.0f"),
                Column("waiting_share", "time spent waiting for data", "%", ".1f", 100),
            ),
            [report["waiting"]],
        ),
    ]


def page(report: Mapping[str, Any]) -> str:
    """Returns the HTML report."""
    by_name = {record["pipeline"]: record for record in report["streams"]}
    summary = (
        f"The stream over a JPEG folder does "
        f"{by_name['stream, JPEG folder']['relative']:.0%} of a bare Pillow loop's "
        f"images per second and core; a resident dataset adds "
        f"{report['resident']['added_share']:.1%} to a ResNet-20 step."
    )
    environment = describe_environment()
    facts = {
        "Processor": f"{environment.cpu}, {environment.num_cores} cores",
        "Versions": ", ".join(f"{k} {v}" for k, v in environment.versions.items()),
        "Date": environment.date,
    }
    sections = [
        html.Section("Rates", tables(report)),
        html.Section("What the policies do", [html.Charts(list(sheets()))]),
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
    add("--json", type=pathlib.Path, help="write the records to this file")
    add("--report", type=pathlib.Path, help="write an HTML page to this file")
    add("--markdown", action="store_true", help="print tables for a README")
    options = parser.parse_args(arguments)
    if not 0 < options.batch_size <= options.files:
        parser.error("--batch-size: expected 1 to the number of --files")
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        _say(f"writing {options.files} files")
        write_photographs(root, options.files, tuple(options.size))
        pack(root)
        report: dict[str, Any] = {"file_size": list(options.size)}
        _say("parts")
        report["pieces"] = measure_pieces(root, options.repeats)
        _say("streams")
        report["streams"] = measure_streams(root, options.batch_size, options.repeats)
        _say("resident data")
        report["resident"] = measure_resident(options.batch_size, options.repeats)
        _say("waiting")
        report["waiting"] = measure_waiting(root, options.batch_size)
    print_tables(tables(report), as_markdown=options.markdown)
    if options.json:
        write_report(options.json, [report])
    if options.report:
        options.report.write_text(page(report), encoding="utf-8")
        print(options.report)
    return 0


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
