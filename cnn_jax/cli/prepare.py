"""`cnn-jax prepare`."""

from __future__ import annotations

import argparse
import dataclasses

from cnn_jax.cli.usage import UsageError, number_in, print_json, print_text
from cnn_jax.messages import warn
from cnn_jax.ranges import Whole

HELP = "Prepare a dataset from its publishers' files, without TensorFlow."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "dataset", help="cifar10, cifar100, mnist, fashion_mnist or imagenet2012"
    )
    parser.add_argument(
        "--from",
        required=True,
        metavar="PATH",
        help="the directory with the files as their publishers named them",
    )
    parser.add_argument(
        "--data-dir",
        metavar="PATH",
        help="directory of prepared sets; $CNN_JAX_DATA/tfds or TFDS's own by default",
    )
    parser.add_argument(
        "--processes",
        type=number_in(Whole(1, 1024)),
        default=1,
        metavar="COUNT",
        help="how many work side by side (default: 1)",
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the files' sha256 with the published ones",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a set that is already there"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.data.prepare import PrepareError, prepare

    data_dir = options.data_dir
    if data_dir is None:
        from cnn_jax.data.sources.tfds import tfds_directory

        data_dir = tfds_directory(None)
    try:
        prepared = prepare(
            options.dataset,
            getattr(options, "from"),
            data_dir,
            processes=options.processes,
            check=options.check,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    except PrepareError as error:
        warn(f"cnn-jax: error: {error}")
        return 1
    if options.json:
        print_json(
            {**dataclasses.asdict(prepared), "directory": str(prepared.directory)}
        )
        return 0
    counts = ", ".join(
        f"{count:,} in {split}" for split, count in prepared.num_examples.items()
    )
    print_text(f"{prepared.directory}: {counts}")
    return 0
