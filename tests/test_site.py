"""The site: its pages are listed, it builds without warnings and loads nothing."""

import contextlib
import html.parser
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from helpers.browser import WIDTHS, assert_pages_fit, needs_chromium

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KATEX = DOCS / "node_modules" / "katex"
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinxcontrib.katex")


def listed_pages():
    """Returns the entries of the toctrees of `docs/index.md`."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index, flags=re.M | re.S)
    lines = [line for tree in trees for line in tree.splitlines()]
    entries = [line for line in lines if line and not line.startswith(":")]
    return [re.sub(r".*<(.+)>", r"\1", entry) for entry in entries]


@pytest.fixture(scope="module")
def repository():
    pytest.importorskip("sphinx", reason="needs Sphinx, of the extra docs")
    return load("repository")


def load(name):
    specification = importlib.util.spec_from_file_location(
        f"site_{name}", DOCS / "_ext" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_page_is_listed_once():
    pages = [*DOCS.glob("*.md"), *DOCS.glob("reference/*.md")]
    names = {str(page.relative_to(DOCS).with_suffix("")) for page in pages} - {"index"}
    own = [entry for entry in listed_pages() if not entry.startswith("generated/")]
    assert sorted(own) == sorted(names)


def test_pages_that_are_copied_exist():
    """An entry of `generated/` is a page outside of `docs/`, or a pattern of some."""
    copied = [entry for entry in listed_pages() if entry.startswith("generated/")]
    assert "generated/notebooks/[0-9]*" in copied
    for entry in copied:
        assert list(ROOT.glob(entry.removeprefix("generated/") + ".*")), entry


@pytest.mark.parametrize(
    ("line", "latex"),
    [
        ("dL/db[o]", r"\frac{\partial L}{\partial b}[o]"),
        ("sum_{n, p} dy[n, p, o]", r"\sum_{n, p}  dy[n, p, o]"),
        ("s_i = k + alpha x_j^2", r"s_{i} = k + \alpha\, x_{j}^{2}"),
        ("dx_i, y_i s_i^-beta", r"dx_{i}, y_{i}\, s_{i}^{-\beta}"),
        ("(v + eps)^(-1/2)", r"(v + \varepsilon)^{-1/2}"),
        ("all p with p = q", r"\text{ all }p\text{ with }p = q"),
        ("dW2 = f'(a) dh", r"dW_{2} = f'(a)\, dh"),
    ],
)
def test_plain_text_becomes_a_formula(line, latex):
    translated = load("derivations").to_latex(line)
    assert translated.replace(" ", "") == latex.replace(" ", "")


def test_only_indented_blocks_become_formulas():
    lines = ["Pooling.", "", "    y = max(x)", "", "Text."]
    load("derivations").set_derivations(None, "module", "m", None, None, lines)
    assert ".. math::" in lines
    assert lines[0] == "Pooling."
    assert lines[-2:] == ["Text.", ""]
    fields = ["    y = x", "", ":param x: Input,", "    a = 1."]
    load("derivations").set_derivations(None, "function", "f", None, None, fields)
    assert fields[0] == ".. math::"
    assert fields[-2:] == [":param x: Input,", "    a = 1."]


def test_links_become_those_of_the_site(repository, tmp_path):
    class App:
        outdir = tmp_path

    text = "[a](../docs/kernels.md#x) [b](drawing.py) [c](https://d.e/f.md) [g](#h)\n"
    fence = "```sh\n[a](../docs/kernels.md)\n```\n"
    source = ROOT / "notebooks" / "README.md"
    place = repository.page_in_docs(source)
    found = repository.rewrite(App, text + fence, source, place)
    expected = "[a](../../kernels.md#x) [b](site:files/notebooks/drawing.py.txt) "
    assert found == expected + "[c](https://d.e/f.md) [g](#h)\n" + fence
    assert (tmp_path / "files/notebooks/drawing.py.txt").is_file()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    missing = [name for name in NEEDED if not _is_installed(name)]
    if missing:
        pytest.skip(f"the extra docs is not installed: no {', '.join(missing)}")
    if not KATEX.exists():
        pytest.skip("KaTeX is not there: run `npm install --prefix docs`")
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E"]
    command += ["-b", "html", str(DOCS), str(output)]
    # Not through a pipe: KaTeX's server, should it outlive Sphinx, would hold it open.
    log = tmp_path_factory.mktemp("log") / "sphinx.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout=900)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, log.read_text()[-4000:]
    return output


def _is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def pages_of(site):
    """Returns Sphinx's pages, not the files that were copied as they are."""
    return [page for page in site.rglob("*.html") if site / "files" not in page.parents]


class Requests(html.parser.HTMLParser):
    """Collects what a browser fetches when it opens a page."""

    def __init__(self, text):
        super().__init__()
        self.urls, self.links = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(values.get("href"))
        self.urls += [values[name] for name in ("src", "srcset") if values.get(name)]


@pytest.mark.slow
def test_pages_request_nothing_and_lead_somewhere(site):
    pages = pages_of(site)
    assert len(pages) > 30
    problems = []
    for page in pages:
        found = Requests(page.read_text(encoding="utf-8"))
        assert found.urls
        problems += [
            f"{page.name} loads {url}"
            for url in found.urls
            if re.match(r"(?!data:)[a-z]+:|//", url)
        ]
        for link in found.links:
            target = link.partition("#")[0].partition("?")[0]
            if re.match(r"[a-z]+:", link) or not target:
                continue
            if not (page.parent / target).resolve().exists():
                problems.append(f"{page.name} links {link}")
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    problems += re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*", styles)
    assert not problems


@pytest.mark.slow
def test_formulas_are_rendered(site):
    """By KaTeX, while the site was built: none is left to a script."""
    count = 0
    for page in pages_of(site):
        text = page.read_text(encoding="utf-8")
        formulas = re.findall(r'class="math[ "]', text)
        rendered = re.findall(r'<span class="katex">', text)
        assert len(rendered) == len(formulas), page.name
        assert "katex-error" not in text, page.name
        count += len(rendered)
    assert count > 100
    reference = (site / "reference" / "kernels.html").read_text(encoding="utf-8")
    assert reference.count('<span class="katex">') > 20
    assert (site / "_static" / "fonts" / "KaTeX_Main-Regular.woff2").is_file()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_overflows_in_a_browser(site, width, tmp_path):
    """Nor does one request anything, or write an error into the console."""
    pages = {
        str(page.relative_to(site)): page
        for page in pages_of(site)
        if "_modules" not in page.parts
    }
    assert len(pages) > 30
    assert_pages_fit(pages, width, tmp_path, parts="article *")
