"""The command line: `cnn-jax models`, `summary`, `convert`, `predict` and others.

Results go to standard output, as a table or as JSON; messages and progress go to
standard error. The exit status is 0 for success, 1 for a check that failed and 2 for a
command that cannot be meant.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import cnn_jax
from cnn_jax import kernels
from cnn_jax.models import create_model, list_models, model_info
from cnn_jax.report.table import Column, Table, json_value, print_table


class UsageError(ValueError):
    """A command that cannot be meant; its message is for the person who typed it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: The command and its options; `sys.argv[1:]` when None.

    Returns:
      The exit status: 0 for success, 1 for a check that failed, 2 for a command that
      cannot be meant.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _make_parser()
    try:
        _check_command(arguments)
        options = parser.parse_args(arguments)
        status = options.run(options)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"cnn-jax: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has seen enough. What is left would fail
        # once more, with a message, when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _print_models(options: argparse.Namespace) -> int:
    names = list_models(options.pattern)
    if not names:
        everything = list_models()
        hint = _nearest(options.pattern.strip("*?"), everything)
        raise UsageError(
            f"no model matches {options.pattern!r}; "
            f"{hint or 'expected a pattern that fits one of ' + _listed(everything)}"
        )
    infos = sorted(map(model_info, names), key=lambda info: (info.year, info.name))
    if options.json:
        _print_json([dataclasses.asdict(info) for info in infos])
        return 0
    columns = (
        Column("name", "Model"),
        Column("year", "Year", format_spec="d"),
        Column("parameters", "Parameters", format_spec=",d"),
        Column("macs", "MACs", "M", ",.1f", 1e-6),
        Column("top1", "Top-1", "%", ".2f"),
        Column("input", "Input"),
        Column("num_classes", "Classes", format_spec=",d"),
    )
    rows = [
        {
            "name": info.name,
            "year": info.year,
            "parameters": info.parameters,
            "macs": info.macs,
            "top1": info.top1,
            "input": _shape_text(info.input_shape),
            "num_classes": info.num_classes,
        }
        for info in infos
    ]
    notes = ["Parameters and multiply-adds (MACs) of one image, at the input shown."]
    families: dict[str, dict[str, None]] = {}
    for info in infos:
        if info.top1 is not None:
            families.setdefault(info.top1_source, {})[info.family] = None
    notes += [
        f"Top-1 of {', '.join(names)}: {source}." for source, names in families.items()
    ]
    print_table(Table(_count(len(rows), "model"), columns, rows, notes))
    return 0


def _print_summary(options: argparse.Namespace) -> int:
    from cnn_jax.analysis.summary import summarize

    try:
        info = model_info(options.model)
        size = options.input_size or info.input_size
        model = create_model(options.model, num_classes=options.num_classes)
        summary = summarize(model, (*size, info.input_shape[-1]))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.json:
        _print_json(summary.to_dict() | {"model": options.model})
        return 0
    columns = (
        Column("path", "Layer"),
        Column("type", "Type"),
        Column("output_shape", "Output"),
        Column("parameters", "Parameters", format_spec=",d"),
        Column("macs", "MACs", format_spec=",d"),
        Column("activation_bytes", "Activations", "bytes", ",d"),
    )
    rows = [
        {
            "path": layer.path,
            "type": layer.type,
            "output_shape": _shape_text(layer.output_shape),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "activation_bytes": layer.activation_bytes,
        }
        for layer in summary.layers
    ]
    rows.append(
        {
            "path": "total",
            "parameters": summary.parameters,
            "macs": summary.macs,
            "activation_bytes": summary.activation_bytes,
        }
    )
    title = f"{options.model} on {_shape_text(summary.input_shape)}"
    notes = [
        f"{info.paper} ({info.year}), {info.url}",
        "MACs are the multiply-adds of one image, those on padding included; one MAC "
        "is two floating-point operations. Activations are the outputs for one image.",
    ]
    print_table(Table(title, columns, rows, notes))
    return 0


def _print_gradcheck(options: argparse.Namespace) -> int:
    from cnn_jax.analysis.gradcheck import CASES

    names = list(dict.fromkeys(case.kernel for case in CASES))
    unknown = [name for name in options.kernel if name not in names]
    if unknown:
        raise UsageError(
            f"--kernel: got unknown name {unknown[0]!r}; "
            f"{_nearest(unknown[0], names) or 'expected one of ' + _listed(names)}"
        )
    chosen = [name for name in names if not options.kernel or name in options.kernel]
    rows = _check_kernels(chosen)
    failed = [row for row in rows if not row["passed"]]
    if options.json:
        _print_json({"passed": not failed, "rows": rows})
        return 1 if failed else 0
    columns = (
        Column("kernel", "Kernel"),
        Column("argument", "Compared"),
        Column("num_cases", "Cases", format_spec=",d"),
        Column("worst_relative_error", "Worst error", "relative", ".1e"),
        Column("tolerance", "Tolerance", "relative", ".0e"),
        Column("result", "Result"),
    )
    texts = {True: "ok", False: "FAILED"}
    shown = [
        {column.key: row.get(column.key) for column in columns}
        | {"result": texts[row["passed"]]}
        for row in rows
    ]
    title = "Kernels and their gradients against jax.vjp of plain lax, float64"
    outcome = (
        f"{_count(len(failed), 'comparison')} of {len(rows)} failed."
        if failed
        else f"All {len(rows)} comparisons agree."
    )
    print_table(Table(title, columns, shown, [outcome]))
    return 1 if failed else 0


def _check_kernels(names: Sequence[str]) -> list[dict[str, Any]]:
    """Compares kernels one by one, on the CPU: only it has float64 for sure."""
    import jax

    from cnn_jax.analysis.gradcheck import run_gradcheck

    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        raise UsageError(
            "gradcheck needs JAX's CPU backend, for float64: unset JAX_PLATFORMS or "
            f"add cpu to it. ({error})"
        ) from error
    rows = []
    with jax.default_device(cpu), kernels.target_platform("cpu"):
        for name in _with_progress(names):
            rows += run_gradcheck({name: getattr(kernels, name)})
    return [dataclasses.asdict(row) for row in rows]


def _print_conversion(options: argparse.Namespace) -> int:
    import jax

    from cnn_jax.pretrained import convert

    try:
        report, metadata = convert(
            options.weights,
            options.destination,
            options.model,
            source=options.source,
            num_classes=options.num_classes,
            key=jax.random.key(options.seed),
        )
    except (ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        _print_json(metadata | {"destination": options.destination})
        return 0
    print(report)
    if metadata["sha256"]:
        print(f"sha256 {metadata['sha256']}")
    print(f"written to {options.destination}")
    return 0


def _print_predictions(options: argparse.Namespace) -> int:
    from cnn_jax.prediction import predict

    try:
        predictions = predict(
            options.weights,
            options.images,
            model=options.model,
            num_classes=options.num_classes,
            class_names=_read_class_names(options.classes),
            top=options.top,
            cam_directory=options.cam,
            endpoint=options.endpoint,
        )
    except (ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        _print_json([dataclasses.asdict(prediction) for prediction in predictions])
        return 0
    columns = (
        Column("image", "Image"),
        Column("name", "Class"),
        Column("probability", "Probability", "%", ".1f", 100.0),
    )
    rows = [
        {
            "image": "" if place else prediction.image,
            "name": name,
            "probability": probability,
        }
        for prediction in predictions
        for place, (name, probability) in enumerate(
            zip(prediction.names, prediction.probabilities, strict=True)
        )
    ]
    notes = [
        f"{prediction.image}: map of {prediction.names[0]} in {prediction.picture}"
        for prediction in predictions
        if prediction.picture is not None
    ]
    print_table(Table(_count(len(predictions), "image"), columns, rows, notes))
    return 0


def _read_class_names(path: str | None) -> list[str] | None:
    """Reads one name a line."""
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        names = [line.strip() for line in file.read().rstrip().split("\n")]
    if not all(names):
        raise UsageError(
            f"--classes: got {path} with an empty line {names.index('') + 1}, expected "
            "one name a line."
        )
    return names


def _with_progress(names: Sequence[str]) -> Iterator[str]:
    """Yields the names, with a bar on standard error if that is a terminal."""
    import rich.console
    import rich.progress

    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            yield name
            progress.advance(task)


class _Parser(argparse.ArgumentParser):
    """A parser that reports mistakes as `main` reports all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {self.prog} --help.")


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="cnn-jax",
        description="Convolutional networks in JAX: models, counts, gradient checks.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"cnn_jax {cnn_jax.__version__}"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (run, words, add_arguments) in COMMANDS.items():
        command = commands.add_parser(
            name, help=words, description=words, allow_abbrev=False
        )
        add_arguments(command)
        command.add_argument(
            "--json", action="store_true", help="print JSON instead of a table"
        )
        command.set_defaults(run=run)
    return parser


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", nargs="?", default="*", help="a shell pattern, such as 'resnet*'"
    )


def _add_summary_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name out of `cnn-jax models`")
    parser.add_argument(
        "--input-size",
        type=_input_size,
        metavar="SIZE",
        help="height and width, or HEIGHTxWIDTH; the model's own if not given",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of logits; the model's own if not given",
    )


def _prepare_dataset(options: argparse.Namespace) -> int:
    from cnn_jax.data.prepare import prepare

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
    if options.json:
        _print_json(
            {**dataclasses.asdict(prepared), "directory": str(prepared.directory)}
        )
        return 0
    counts = ", ".join(
        f"{count:,} in {split}" for split, count in prepared.num_examples.items()
    )
    print(f"{prepared.directory}: {counts}")
    return 0


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
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
        help="where prepared sets lie; $CNN_JAX_DATA/tfds or TFDS's own if not given",
    )
    parser.add_argument(
        "--processes",
        type=int,
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


def _add_gradcheck_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME",
        help="check only this kernel; may be given more than once",
    )


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="SRC",
        help="a .safetensors, .npz, .weights.h5 or .pth file, or hf-hub:OWNER/NAME",
    )
    parser.add_argument(
        "destination", metavar="DST", help="the directory to write; must not exist"
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="a name out of `cnn-jax models`"
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help="whose names the arrays have: torchvision, timm, keras or cnn_jax; found "
        "out if not given",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of logits; another one than the file's gets a new last layer",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the new last layer, if there is one"
    )


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help="a directory that `cnn-jax convert` wrote, or what it converts",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files in any format Pillow reads"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a name out of `cnn-jax models`; a converted checkpoint knows its own",
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="COUNT", help="how many classes to name"
    )
    parser.add_argument(
        "--classes", metavar="FILE", help="the names of the classes, one a line"
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of classes, if neither the model nor --classes says it",
    )
    parser.add_argument(
        "--cam",
        metavar="DIRECTORY",
        help="write a picture of each image with the Grad-CAM map of its first class",
    )
    parser.add_argument(
        "--endpoint",
        metavar="NAME",
        help="the activations to make the map of; the last ones if not given",
    )


COMMANDS = {
    "models": (
        _print_models,
        "List the models, oldest first.",
        _add_models_arguments,
    ),
    "summary": (
        _print_summary,
        "Count a model's parameters and multiply-adds, layer by layer.",
        _add_summary_arguments,
    ),
    "gradcheck": (
        _print_gradcheck,
        "Compare kernels and gradients with JAX's autodiff in float64.",
        _add_gradcheck_arguments,
    ),
    "prepare": (
        _prepare_dataset,
        "Prepare a dataset from its publishers' files, without TensorFlow.",
        _add_prepare_arguments,
    ),
    "convert": (
        _print_conversion,
        "Check weights from elsewhere and write them as a checkpoint.",
        _add_convert_arguments,
    ),
    "predict": (
        _print_predictions,
        "Classify image files, and show where a network looks.",
        _add_predict_arguments,
    ),
}
"""What each command does, in one sentence, and takes."""


def _check_command(arguments: Iterable[str]) -> None:
    """Refuses an unknown command and names the nearest, which argparse does not."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    if words and words[0] not in COMMANDS:
        hint = _nearest(words[0], COMMANDS)
        raise UsageError(
            f"got unknown command {words[0]!r}; "
            f"{hint or 'expected one of ' + _listed(COMMANDS)}"
        )


def _input_size(text: str) -> tuple[int, int]:
    """Parses `32` or `32x48`."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a positive integer or HEIGHTxWIDTH"
        )
    return size


def _nearest(name: str, known: Iterable[str]) -> str:
    """Asks whether the nearest names were meant; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) + "."


def _shape_text(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _print_json(content: Any) -> None:
    print(json.dumps(json_value(content), indent=2))


if __name__ == "__main__":
    sys.exit(main())
