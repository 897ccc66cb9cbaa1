"""Opening pages in headless Chromium and measuring them there.

A test gives the script that measures; it leaves its result as JSON in an element of the
page named `measured`. What the browser wrote into its console comes with it.
"""

import html
import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

WIDTHS = (1280, 400)
"""Of a window on a desk and of a phone, in CSS pixels."""

_MEASURE_FRAMES = pathlib.Path(__file__).with_name("measure_pages.js")
_RESULT = re.compile(r'<pre id="measured">(.*?)</pre>', flags=re.DOTALL)


class Measured(NamedTuple):
    """Values that a page's script measured, and the lines of the browser's console."""

    values: dict[str, Any]
    console: list[str]


def measure(page: str, script: str, folder: pathlib.Path, size=(1280, 720)) -> Measured:
    """Opens a page with a script at the end of its body.

    Args:
      page: HTML.
      script: JavaScript that writes the element `measured` once the page is loaded.
      folder: Where the page's copy and the browser's profile are written.
      size: Of the window, in CSS pixels.
    """
    assert CHROMIUM is not None
    assert "</body>" in page
    copy = folder / "measured.html"
    page = page.replace("</body>", f"<script>{script}</script></body>")
    copy.write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command += [f"--window-size={size[0]},{size[1]}", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = _RESULT.search(done.stdout)
    assert found is not None, "the page's script has not ended"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Measured(json.loads(html.unescape(found[1])), console)


def assert_pages_fit(
    pages: Mapping[str, pathlib.Path], width: int, folder: pathlib.Path, parts: str
) -> None:
    """Checks that pages fit into a width, request nothing and log no error.

    They are opened in frames, since a browser's window cannot be as narrow as a phone.

    Args:
      pages: Their names in messages, and their files.
      width: Of the frames, in CSS pixels.
      folder: Where the browser may write.
      parts: The CSS selector of the elements none of which may end outside.
    """
    frames = "".join(
        f'<iframe width={width} height=800 style="border:0" data-parts="{parts}" '
        f'data-page="{html.escape(name)}" src="{page.absolute().as_uri()}"></iframe>'
        for name, page in pages.items()
    )
    script = _MEASURE_FRAMES.read_text(encoding="utf-8")
    harness = f"<!doctype html><body>{frames}</body>"
    measured = measure(harness, script, folder, (width, 800))
    assert measured.values["frames"] == len(pages) > 0
    problems = measured.values["requests"] + measured.values["problems"]
    # What the site's theme says of itself when it loads is none.
    problems += [line for line in measured.console if "[PST]" not in line]
    assert not problems, "\n".join(problems)
