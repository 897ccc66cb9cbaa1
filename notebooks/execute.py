"""Executes the notebooks, and checks that committed ones are as their sources.

    python notebooks/execute.py              run all, and write each NAME.ipynb
    python notebooks/execute.py 01 06        those whose names begin so
    python notebooks/execute.py --smoke      small sizes, and nothing is written
    python notebooks/execute.py --check      runs nothing: compares with the sources

A source is NAME.py in jupytext's percent format. Needs the extra `notebooks`.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
import time
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent
LARGEST = 1_500_000
"""Bytes of a committed notebook, so that it opens at once."""

LARGEST_PRINT = 20_000
"""Characters of text that one cell may print."""

CELL_SECONDS = 900
"""After which a cell is taken to hang. Far above the three minutes of a notebook."""

MACHINE_PATH = re.compile(
    r"(?<![\w.:/<-])(?:/(?:home|root|tmp|Users|usr|opt|var|mnt|private)/"
    r"|[A-Z]:\\\\?(?=\w))|site-packages"
)
ADDRESS = re.compile(r"\b0x[0-9a-f]{8,}\b")


def sources(prefixes: list[str] | None = None) -> list[pathlib.Path]:
    """Returns the sources in their order, those that begin with one of `prefixes`.

    Raises:
      ValueError: If nothing begins with one of them.
    """
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    if not prefixes:
        return found
    names = [path.name.removesuffix(".py") for path in found]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(
                f"got {prefix!r}, expected the beginning of one of {', '.join(names)}."
            )
    return [path for path in found if path.name.startswith(tuple(prefixes))]


def read_source(path: pathlib.Path) -> Any:
    """Returns the notebook of a source, without outputs.

    Identifiers of cells are numbers, so that the same source gives the same file.
    """
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03}"
    return notebook


def execute(path: pathlib.Path, *, smoke: bool) -> Any:
    """Returns the notebook of a source with the outputs of a run in a fresh process.

    Raises:
      nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    import nbclient

    notebook = read_source(path)
    start, total = time.monotonic(), len(notebook.cells)

    def report(cell, cell_index):
        if cell.cell_type == "code":
            name = path.name.removesuffix(".py")
            seconds = time.monotonic() - start
            line = f"{seconds:6.1f} s  {name}: cell {cell_index + 1} of {total}"
            print(line, flush=True)

    nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
        on_cell_start=report,
    ).execute(env=_environment(smoke))
    # The kernel adds the version of Python, which differs from machine to machine.
    notebook.metadata["language_info"] = {"name": "python"}
    return merge_streams(notebook)


def _environment(smoke: bool) -> dict[str, str]:
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONHASHSEED": "0"}
    environment.pop("CNN_JAX_SMOKE", None)
    # A notebook that wants several devices asks for them itself.
    environment.pop("XLA_FLAGS", None)
    return environment | ({"CNN_JAX_SMOKE": "1"} if smoke else {})


def merge_streams(notebook: Any) -> Any:
    """Joins what a cell printed in pieces, which are cut where the clock says."""
    for cell in notebook.cells:
        merged: list[Any] = []
        for output in cell.get("outputs", ()):
            if (
                output.output_type == "stream"
                and merged
                and merged[-1].output_type == "stream"
                and merged[-1].name == output.name
            ):
                merged[-1].text += output.text
            else:
                merged.append(output)
        if cell.cell_type == "code":
            cell.outputs = merged
    return notebook


def problems_of(path: pathlib.Path) -> list[str]:
    """Returns what is wrong with the committed notebook of a source, in sentences."""
    import nbformat

    target = path.with_suffix(".ipynb")
    if not target.exists():
        return [f"{target.name} is missing: run python notebooks/execute.py"]
    notebook, source = nbformat.read(target, as_version=4), read_source(path)
    found = []
    if target.stat().st_size > LARGEST:
        found.append(
            f"{target.name} has {target.stat().st_size} bytes, expected at most "
            f"{LARGEST}"
        )
    if _cells(notebook) != _cells(source) or notebook.metadata != source.metadata:
        found.append(
            f"{target.name} is not the notebook of {path.name}: run "
            f"python notebooks/execute.py {path.name[:2]}"
        )
    for cell in notebook.cells:
        found += [f"{target.name}, {cell.id}: {text}" for text in output_problems(cell)]
    return found


def _cells(notebook: Any) -> list[tuple[str, str, str]]:
    return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]


def output_problems(cell: Any) -> list[str]:
    """Returns what is wrong with the outputs of one cell of an executed notebook."""
    if cell.cell_type != "code":
        return []
    found = []
    if cell.execution_count is None:
        found.append("was not executed")
    for output in cell.outputs:
        text = output.get("text", "")
        text += "".join(
            value
            for kind, value in output.get("data", {}).items()
            if kind.startswith("text/")
        )
        if output.output_type == "error":
            found.append(f"ended with {output.ename}")
        elif output.get("name") == "stderr":
            found.append(f"printed to standard error: {text[:80]!r}")
        if len(text) > LARGEST_PRINT:
            found.append(f"printed {len(text)} characters")
        for pattern, what in ((MACHINE_PATH, "a path"), (ADDRESS, "an address")):
            if match := pattern.search(text):
                found.append(f"shows {what} of one machine: {match.group()!r}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 01")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--smoke", action="store_true", help="run at small sizes and write nothing"
    )
    action.add_argument(
        "--check", action="store_true", help="compare with the sources and run nothing"
    )
    options = parser.parse_args(arguments)
    try:
        chosen = sources(options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.check:
        found = [problem for path in chosen for problem in problems_of(path)]
        print("\n".join(found) or f"{len(chosen)} notebooks are as their sources")
        return 1 if found else 0
    return _run(chosen, smoke=options.smoke)


def _run(chosen: list[pathlib.Path], *, smoke: bool) -> int:
    import nbclient
    import nbformat

    for path in chosen:
        print(f"{path.name}: starting", flush=True)
        start = time.monotonic()
        try:
            notebook = execute(path, smoke=smoke)
        except nbclient.exceptions.CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        found = [text for cell in notebook.cells for text in output_problems(cell)]
        if found:
            print("\n".join(f"{path.name}: {text}" for text in found), file=sys.stderr)
            return 1
        if not smoke:
            nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
