"""`cnn-jax convert`."""

from __future__ import annotations

import argparse

from cnn_jax.cli.usage import UsageError, print_json, print_text, working

HELP = "Check weights from elsewhere, or of a run, and write them under our names."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "weights",
        metavar="SRC",
        help="a .safetensors, .npz, .weights.h5 or .pth file, hf-hub:OWNER/NAME, "
        "package:NAME (the one such file in an installed package), or the directory of "
        "a training run or one that `cnn-jax convert` wrote",
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        help="what to write, which must not exist: a .safetensors or .npz file, or, "
        "without a suffix, a directory",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a name out of `cnn-jax models`; runs and what `cnn-jax convert` wrote "
        "name their own",
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help="whose names the arrays have: torchvision, timm, keras, "
        "efficientnet_pytorch or cnn_jax; found out if not given",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of logits; another one than the file's gets a new last layer",
    )
    parser.add_argument(
        "--in-channels",
        type=int,
        metavar="COUNT",
        help="the number of channels of the images; RGB's first filters are summed for "
        "1, and repeated and rescaled for more",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the new last layer, if there is one (default: 0)",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    import jax

    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.pretrained import convert
    from cnn_jax.seeds import check_seed

    try:
        with working(f"converting {options.weights}"):
            report, metadata = convert(
                options.weights,
                options.destination,
                options.model,
                source=options.source,
                num_classes=options.num_classes,
                in_channels=options.in_channels,
                key=jax.random.key(check_seed(options.seed, "--seed")),
            )
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        print_json(metadata | {"destination": options.destination})
        return 0
    print_text(report)
    if metadata["sha256"]:
        print_text(f"sha256 {metadata['sha256']}")
    print_text(f"written to {options.destination}")
    return 0
