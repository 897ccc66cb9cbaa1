"""Builds the deck: the history of the CNN as one self-contained HTML file.

    python docs/history/build.py                 # writes history.html beside it
    python docs/history/build.py --pdf deck.pdf  # needs Chromium, too

`deck.md` holds the words. Its placeholders are filled from the registry, from the
traced networks and from committed records (see `facts.py`), which takes minutes, and
marp-cli renders the result: `npm install` in this directory first, or name
another marp with `--marp`. Nothing is fetched when the file is opened: pictures are
inline SVG, styles and scripts are inline, fonts are the system's.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
OUTPUT = HERE / "history.html"
SOURCES = (
    "deck.md",
    "theme.css",
    "marp.config.json",
    "package.json",
    "references.json",
    "landmarks.json",
    "build.py",
    "charts.py",
    "drawing.py",
    "facts.py",
    "labels.py",
    "layout.py",
    "traced.py",
)
"""The files that the deck is made of, beside the package and the records."""


def digest() -> str:
    """Returns the SHA-256 of all sources, which the built file carries."""
    found = hashlib.sha256()
    for name in SOURCES:
        found.update(name.encode() + b"\0" + (HERE / name).read_bytes() + b"\0")
    return found.hexdigest()


def fill(text: str, progress: bool = False) -> str:
    """Returns the Markdown with its placeholders replaced.

    Raises:
      ValueError: If a placeholder stands for nothing, naming it.
    """
    from facts import PLACEHOLDER, resolve

    total = len(PLACEHOLDER.findall(text))
    done = 0

    def replace(match):
        nonlocal done
        done += 1
        if progress:
            print(f"\r{done} of {total}: {match[1]:70.70}", end="", file=sys.stderr)
        try:
            return resolve(match[1])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"placeholder {match[0]}: {error}") from error

    filled = PLACEHOLDER.sub(replace, text)
    if progress:
        print(file=sys.stderr)
    return filled


def find_marp(given: str | None) -> str | None:
    """Returns the marp command: the one given, this directory's, or the PATH's."""
    local = HERE / "node_modules" / ".bin" / "marp"
    return given or (str(local) if local.exists() else shutil.which("marp"))


def render(marp: str, markdown: str, output: pathlib.Path) -> None:
    """Writes a filled deck as HTML or, by the suffix, as PDF.

    Raises:
      subprocess.CalledProcessError: If marp fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        source = pathlib.Path(directory) / "deck.md"
        source.write_text(markdown, encoding="utf-8")
        command = [marp, "--config-file", str(HERE / "marp.config.json")]
        command += ["--theme-set", str(HERE / "theme.css"), "--html"]
        command += [str(source), "--output", str(output.resolve())]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    if output.suffix == ".html":
        text = output.read_text(encoding="utf-8")
        meta = f'<meta name="sources" content="{digest()}">'
        output.write_text(text.replace("<head>", f"<head>{meta}", 1), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Builds the deck; returns 2 where there is no marp."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    parser.add_argument("--pdf", type=pathlib.Path, help="a PDF, by Chromium")
    parser.add_argument(
        "--markdown", type=pathlib.Path, help="keep the filled Markdown"
    )
    parser.add_argument("--marp", help="the marp command")
    options = parser.parse_args(arguments)
    marp = find_marp(options.marp)
    if marp is None:
        print(
            f"marp: got none in {HERE / 'node_modules'} or on the PATH; "
            "run `npm install` in docs/history, or give --marp.",
            file=sys.stderr,
        )
        return 2
    filled = fill((HERE / "deck.md").read_text(encoding="utf-8"), progress=True)
    if options.markdown:
        options.markdown.write_text(filled, encoding="utf-8")
    for output in filter(None, (options.output, options.pdf)):
        render(marp, filled, output)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
