"""Brings the repository's pages into the site, and makes its links lead there.

Pages outside of `docs/` are copied to `docs/generated/`. In every page, a link to
another page becomes a link within the site; a link to any other file becomes one to a
copy of it in the site's folder `files/`. In the repository the links stay as they are,
so that they work there, too.
"""

import json
import os
import pathlib
import re
import shutil

from docutils import nodes
from sphinx.util import logging

DOCS = pathlib.Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
COPIES = DOCS / "generated"
OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "notebooks/README.md",
    "notebooks/[0-9]*.ipynb",
    "experiments/cloud/README.md",
    "experiments/results/*.md",
)
SHOWN_BY_BROWSERS = {".html", ".json", ".md", ".png", ".svg", ".txt", ".yaml"}
FENCED = re.compile(r"(^ *(`{3,}).*?^ *\2$)", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(
    r"(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)"
)
logger = logging.getLogger(__name__)


def outside_pages():
    """Returns the pages of the repository that are not under `docs/`."""
    return [path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))]


def page_in_docs(path):
    """Returns where the site has a page of the repository; None if it is no page."""
    if path in outside_pages():
        return COPIES / path.relative_to(ROOT)
    is_page = path.suffix == ".md" and path.parent in (DOCS, DOCS / "reference")
    return path if is_page else None


def copy_file(file, outdir):
    """Copies a file, or a folder's files and a list of them; returns where it is."""
    name = f"files/{file.relative_to(ROOT).as_posix()}"
    copy = pathlib.Path(outdir, name)
    if file.is_dir():
        children = [path for path in sorted(file.iterdir()) if path.is_file()]
        links = (copy_file(path, outdir).rpartition("/")[2] for path in children)
        copy.mkdir(parents=True, exist_ok=True)
        rows = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
        page = f"<!doctype html><title>{name}</title><ul>{rows}</ul>"
        (copy / "index.html").write_text(page, encoding="utf-8")
        return f"{name}/index.html"
    shown = "" if file.suffix in SHOWN_BY_BROWSERS else ".txt"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, f"{copy}{shown}")
    return name + shown


def rewrite(app, text, path, place):
    """Returns Markdown of the file `path` with its links as the site needs them."""

    def link(match):
        image, words, target, anchor = match.groups(default="")
        file = (path.parent / target).resolve()
        page = page_in_docs(file)
        if not file.exists() or not file.is_relative_to(ROOT):
            logger.warning("%s: %s is not in the repository", path, target)
        elif page or image:
            relative = os.path.relpath(page or file, place.parent)
            return f"{image}{words}({pathlib.PurePath(relative).as_posix()}{anchor})"
        else:
            return f"{words}(site:{copy_file(file, app.outdir)}{anchor})"
        return match[0]

    parts = FENCED.split(text)  # text, block, its fence, text, ...
    return "".join(
        part if number % 3 else LINK.sub(link, part)
        for number, part in enumerate(parts)
        if number % 3 != 2
    )


def copy_outside_pages(app):
    """Copies the pages from elsewhere, before Sphinx looks for pages."""
    shutil.rmtree(COPIES, ignore_errors=True)
    for path in outside_pages():
        copy = page_in_docs(path)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            notebook = json.loads(text)
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    source = "".join(cell["source"])
                    cell["source"] = rewrite(app, source, path, copy)
            text = json.dumps(notebook)
        else:
            text = rewrite(app, text, path, copy)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")


def rewrite_page(app, docname, source):
    """Changes the links of a page under `docs/` as Sphinx reads it."""
    path = DOCS / f"{docname}.md"
    if path.is_file() and not path.is_relative_to(COPIES):
        source[0] = rewrite(app, source[0], path, path)


def resolve_copies(app, doctree, docname):
    """Makes the links to copied files relative to their page."""
    for node in doctree.findall(nodes.reference):
        if node.get("refuri", "").startswith("site:"):
            node["refuri"] = "../" * docname.count("/") + node["refuri"][5:]


def setup(app):
    """Registers the copies and both changes of links with Sphinx."""
    app.connect("builder-inited", copy_outside_pages)
    app.connect("source-read", rewrite_page)
    app.connect("doctree-resolved", resolve_copies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
