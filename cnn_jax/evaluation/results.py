"""The files of an evaluation: `evaluation.json` and the page `evaluation.html`."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import IO, Any

from cnn_jax.evaluation.run import Evaluation
from cnn_jax.files import (
    FileError,
    json_value,
    naming,
    open_regular,
    read_json,
    whole_file,
)
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.report import html
from cnn_jax.report.evaluation_page import score_blocks, score_table
from cnn_jax.report.words import count

RECORD, PAGE = "evaluation.json", "evaluation.html"
"""The names of the two files."""

KIND = "cnn_jax.evaluation"
"""The value of `"kind"` that marks a record."""

_KICKER = "cnn_jax, one evaluation"

_UNFINISHED = (f"{RECORD}.new", f"{PAGE}.new")
"""Names of files that a process may have left which was killed while it wrote."""


def record_of(evaluation: Evaluation, *, with_pictures: bool = True) -> dict[str, Any]:
    """Returns an evaluation as JSON has it.

    Args:
      evaluation: The evaluation.
      with_pictures: Whether mistakes keep their pictures.
    """
    record = {"kind": KIND, **json_value(evaluation)}
    record["preprocessing"] = json_value(evaluation.preprocessing.to_dict())
    record["bad_images"] = [image._asdict() for image in evaluation.bad_images]
    if not with_pictures:
        for mistake in record["scores"]["mistakes"]:
            del mistake["picture"]
    return record


def check_directory(directory: str | os.PathLike[str]) -> None:
    """Checks, before any work, that results can be written into a directory.

    Args:
      directory: It need not exist. Results from before may be in it; they are replaced.

    Raises:
      FileError: If it holds anything else, or is no directory.
      OSError: If it, or the one to make it in, cannot be written.
    """
    directory = pathlib.Path(os.path.expanduser(directory))
    existing = directory
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise FileError(
            f"{existing}: got a file, expected a directory for the results, or none."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing}: results cannot be written there.")
    if existing != directory:
        return
    for path in sorted(directory.iterdir()):
        if path.name not in _UNFINISHED and not _is_result(path):
            raise FileError(
                f"{directory}: got a directory with other files ({path.name}), "
                "expected an empty one, a new one, or one with results of "
                "`cnn-jax evaluate` alone, which are replaced."
            )


def write_results(
    directory: str | os.PathLike[str], evaluation: Evaluation
) -> pathlib.Path:
    """Writes the record and then the page, or neither.

    Args:
      directory: Where to; made if need be.
      evaluation: The evaluation.

    Returns:
      Where the page is.

    Raises:
      FileError: As `check_directory`.
      OSError: If a file cannot be written. Results from before then stay, unless both
        files were complete and one could not take its place: then there are none.
    """
    directory = pathlib.Path(os.path.expanduser(directory))
    record = record_of(evaluation)
    content = json.dumps(record, indent=1, allow_nan=False) + "\n"
    page = render(record)
    check_directory(directory)
    made = not directory.exists()
    is_old = False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(directory / PAGE) as page_file,
            whole_file(directory / RECORD) as record_file,
        ):
            _write(directory / PAGE, page_file, page)
            _write(directory / RECORD, record_file, content)
            # Both are on the disk. A page never stands beside another's record.
            is_old = True
            (directory / PAGE).unlink(missing_ok=True)
    except BaseException:
        # The page takes its place last: where it stands, both are complete.
        with contextlib.suppress(OSError):
            if is_old and not (directory / PAGE).exists():
                (directory / RECORD).unlink(missing_ok=True)
            if made:
                directory.rmdir()
        raise
    return directory / PAGE


def render(record: dict[str, Any]) -> str:
    """Returns the page of a record."""
    scores, model = record["scores"], record["model"]
    blocks: list[Any] = [score_table(scores, record["published"])]
    if record["bad_images"]:
        bad = record["bad_images"]
        listed = {each["origin"]: each["reason"] for each in bad}
        blocks.append(
            html.Details(
                f"{count(len(bad), 'image')} could not be read", [html.Facts(listed)]
            )
        )
    return html.render_page(
        f"{model} on {record['dataset']}",
        summarize(record),
        [
            html.Section("Results", blocks),
            *score_blocks(scores),
            html.Section(
                "How this was made",
                [html.Code(record["command"]), html.Facts(facts(record))],
            ),
        ],
        kicker=_KICKER,
    )


def summarize(record: dict[str, Any]) -> str:
    """Returns the outcome in one paragraph."""
    scores = record["scores"]
    accuracy = scores["accuracy"]
    text = (
        f"{record['model']} is right on {scores['num_correct']:,} of "
        f"{count(scores['num_examples'], 'example')} of {record['dataset']}, split "
        f"{record['split']}: {accuracy['mean']:.2%} ({accuracy['low']:.2%} to "
        f"{accuracy['high']:.2%})."
    )
    if record["published"] is not None:
        text += f" Published: {record['published']['top1']:.2%}."
    if record["bad_images"]:
        number = count(len(record["bad_images"]), "image")
        text += f" {number} could not be read and were left out."
    return text


def facts(record: dict[str, Any]) -> dict[str, str]:
    """Returns what the scores follow from, name by name."""
    environment = record["environment"]
    preprocessing = Preprocessing.from_dict(record["preprocessing"])
    images, own = str(preprocessing), record["data_channels"]
    if own != preprocessing.channels:
        images += "; grey repeated" if own == 1 else "; colour made grey"
    versions = [f"{name} {value}" for name, value in environment["versions"].items()]
    made = {
        "Weights": record["weights"],
        "sha256": record["sha256"],
        "Digest of the arrays": record["digest"],
        "Data": f"{record['dataset']}, split {record['split']}",
        "Fingerprint of the data": record["fingerprint"],
        "Images": images,
        "Date": environment["date"],
        "Hardware": f"{environment['cpu']}, {environment['num_cores']} cores",
        "JAX devices": ", ".join(environment["devices"]),
        "Versions": ", ".join([environment["python"], *versions]),
        "Source revision": environment["revision"],
    }
    return {name: value for name, value in made.items() if value}


def _write(path: pathlib.Path, file: IO[bytes], text: str) -> None:
    with naming(path):
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def _is_result(path: pathlib.Path) -> bool:
    """Returns whether a file is one that `write_results` wrote."""
    if path.is_symlink():
        return False
    try:
        if path.name == RECORD:
            return read_json(path).get("kind") == KIND
        if path.name == PAGE:
            with open_regular(path) as file:
                return f'<p class="kicker">{_KICKER}</p>'.encode() in file.read(2**16)
    except (FileError, OSError):
        return False
    return False
