"""`cnn-jax evaluate`."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from cnn_jax.cli.usage import (
    WEIGHTS,
    UsageError,
    add_model,
    class_names_of,
    number_in,
    print_json,
    print_text,
)
from cnn_jax.messages import warn
from cnn_jax.ranges import Whole
from cnn_jax.report.table import print_table

HELP = "Score weights on labelled images: accuracy, calibration, confusions, mistakes."

_MOST_MISTAKES, _MOST_ROWS = 200, 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help=WEIGHTS,
    )
    parser.add_argument(
        *("--dataset", "--data"),
        required=True,
        metavar="NAME",
        help="folder:PATH with a directory for each class, or the name of a prepared "
        "set, such as cifar10; folders named by WordNet ids (n01440764) are ImageNet's "
        "classes",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="the split (default: test, or all of a folder without splits)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="PATH",
        help="directory of prepared sets; $CNN_JAX_DATA/tfds or TFDS's own by default",
    )
    add_model(parser)
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="the names of the logits, one a line; `imagenet` for those of ImageNet, "
        "which published weights have by themselves",
    )
    parser.add_argument(
        "--num-classes",
        type=number_in(Whole(1, 2**20)),
        metavar="COUNT",
        help="the number of logits, if neither WEIGHTS nor the model says it",
    )
    parser.add_argument(
        "--batch-size",
        type=number_in(Whole(1, 2**20)),
        default=128,
        metavar="COUNT",
        help="images that are classified at once (default: 128)",
    )
    parser.add_argument(
        "--num-workers",
        type=number_in(Whole(0, 1024)),
        default=0,
        metavar="COUNT",
        help="processes that decode images (default: threads of this one)",
    )
    parser.add_argument(
        "--max-bad-images",
        type=number_in(Whole(0, 2**31)),
        default=0,
        metavar="COUNT",
        help="how many images may be unreadable; they are left out (default: 0)",
    )
    parser.add_argument(
        "--mistakes",
        type=number_in(Whole(0, _MOST_MISTAKES)),
        default=12,
        metavar="COUNT",
        help="how many of the surest mistakes to show (default: 12)",
    )
    parser.add_argument(
        "--out",
        metavar="DIRECTORY",
        help="write evaluation.json and the page evaluation.html into it; it must hold "
        "no other files",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.allocator import keep_memory
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.evaluation import evaluate
    from cnn_jax.evaluation.results import check_directory, record_of, write_results

    keep_memory()
    page = None
    try:
        if options.out is not None:
            check_directory(options.out)
        names = class_names_of(options.classes)
        evaluation = evaluate(
            options.weights,
            dataset=options.dataset,
            split=options.split,
            model=options.model,
            num_classes=options.num_classes,
            class_names=names,
            data_dir=options.data_dir,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            max_bad_images=options.max_bad_images,
            num_mistakes=options.mistakes,
            show_progress=True,
        )
        if options.out is not None:
            page = write_results(options.out, evaluation)
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    _warn_of_training_images(options, evaluation.split, evaluation.fingerprint)
    record = record_of(evaluation, with_pictures=False)
    if options.json:
        print_json(record)
    else:
        _print(record)
    if page is not None:
        said = f"page in {page}, the same as JSON beside it"
        warn(said) if options.json else print_text(said)
    return 0


def _warn_of_training_images(
    options: argparse.Namespace, split: str, fingerprint: str
) -> None:
    """Says if a run was trained on the evaluated images, as far as its files tell."""
    from cnn_jax.cli.train_setup import SPLIT_FILE
    from cnn_jax.data.sources.folder import absolute_name
    from cnn_jax.files import FileError, read_json

    path = pathlib.Path(options.weights).expanduser().absolute()
    share = ""
    try:
        # The run itself, its directory of checkpoints, or one of these.
        directory = next(
            each
            for each in (path, *path.parents[:2])
            if (each / "config.json").is_file()
        )
        about = read_json(directory / "config.json")
        config = about["config"]
        if about["dataset"]["train"] != fingerprint:
            # Other images; or these, in other bytes or but for those held out.
            is_split = split == config.get("train_split", "train")
            if not is_split or absolute_name(config["dataset"]) != absolute_name(
                options.dataset
            ):
                return
            if (directory / SPLIT_FILE).exists():
                names = read_json(directory / SPLIT_FILE)["files"]["train"]
                share = f"{len(names):,} of "
            elif config.get("validation_fraction"):
                share = "most of "
    except (FileError, OSError, LookupError, TypeError, AttributeError, StopIteration):
        return
    warn(
        f"{options.weights}: the run was trained on {share}these images, and scores "
        "higher on them than on new ones."
    )


def _print(record: dict[str, Any]) -> None:
    from cnn_jax.evaluation.results import summarize
    from cnn_jax.report import evaluation_page

    scores = record["scores"]
    print_text(summarize(record))
    print_table(evaluation_page.score_table(scores, record["published"]))
    print_table(evaluation_page.class_table(scores, _MOST_ROWS))
    if scores["confusions"]:
        print_table(evaluation_page.pair_table(scores, _MOST_ROWS))
    if scores["mistakes"]:
        print_table(evaluation_page.mistake_table(scores))
