"""A self-contained HTML page from blocks: nothing is loaded, everything is escaped.

A page is a title, a summary and sections; a section is a heading and blocks, which
are data (`Paragraph`, `Bullets`, `Table`, `Grid`, `Chart`, `Picture`, `Facts`, `Code`,
`Details`). The style sheet is part of the page. It has one light theme, a print form,
and boxes that scroll by themselves on a narrow screen.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.report import table as tables
from cnn_jax.report.table import Table


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """Sentences as the items of a list."""

    texts: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Chart:
    """An `<svg>` element from `plots`, and what to see in it."""

    svg: str
    title: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image from `images.data_uri`, and what to see in it.

    Raises:
      ValueError: If the URI does not hold the image itself.
    """

    uri: str
    title: str
    caption: str

    def __post_init__(self) -> None:
        if not self.uri.startswith("data:image/"):
            raise ValueError(
                f"uri: got {self.uri[:40]!r}, expected one from `images.data_uri`: a "
                "page refers to nothing outside itself."
            )


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts or pictures side by side, or below each other where they are too wide."""

    charts: Sequence[Chart | Picture]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Small pictures side by side, as many as fit."""

    pictures: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Counts by two names, the more the darker: a confusion matrix.

    Attributes:
      title: What it shows.
      rows: A name for each row.
      columns: A name for each column.
      counts: One row of numbers for each row, shaded by their share of it.
      note: A sentence below.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and their values, as a list of definitions."""

    facts: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Code:
    """Text in a fixed-width font, such as a command."""

    text: str


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks behind a summary line that opens them; always open in print."""

    summary: str
    blocks: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    blocks: Sequence[Any]


def render_page(
    title: str, summary: str, sections: Sequence[Section], *, kicker: str = ""
) -> str:
    """Returns a whole page.

    Args:
      title: The heading, and the title of the browser's tab.
      summary: The result in one paragraph.
      sections: The rest, in order.
      kicker: A line above the title: the project, the date.

    Returns:
      A complete HTML document that refers to nothing outside itself.
    """
    body = "\n".join(_render_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>{html.escape(title)}</title>
<style>
{_style()}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{html.escape(kicker)}</p>
<h1>{html.escape(title)}</h1>
<p class="summary">{html.escape(summary)}</p>
</header>
{body}
</main>
</body>
</html>
"""


def _style() -> str:
    return importlib.resources.files(__package__).joinpath("style.css").read_text()


def _render_section(section: Section) -> str:
    blocks = "\n".join(map(render_block, section.blocks))
    return f"<section>\n<h2>{html.escape(section.heading)}</h2>\n{blocks}\n</section>"


@functools.singledispatch
def render_block(block: Any) -> str:
    """Returns one block as an HTML fragment.

    Raises:
      TypeError: If the block is of no kind that this module defines.
    """
    raise TypeError(
        f"block: got {type(block).__name__}, expected a Table or a block of "
        "cnn_jax.report.html."
    )


@render_block.register
def _(block: Paragraph) -> str:
    return f"<p>{html.escape(block.text)}</p>"


@render_block.register
def _(block: Bullets) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in block.texts)
    return f"<ul>{items}</ul>" if items else ""


@render_block.register
def _(block: Table) -> str:
    return tables.to_html(block)


@render_block.register
def _(block: Chart) -> str:
    title, caption = html.escape(block.title), html.escape(block.caption)
    return (
        f"<figure><h3>{title}</h3>{block.svg}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


@render_block.register
def _(block: Picture) -> str:
    title, caption = html.escape(block.title), html.escape(block.caption)
    return (
        f'<figure><h3>{title}</h3><img src="{html.escape(block.uri)}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


@render_block.register
def _(block: Charts) -> str:
    charts = "\n".join(map(render_block, block.charts))
    return f'<div class="charts">\n{charts}\n</div>'


@render_block.register
def _(block: Pictures) -> str:
    pictures = "\n".join(map(render_block, block.pictures))
    return f'<div class="pictures">\n{pictures}\n</div>'


@render_block.register
def _(block: Grid) -> str:
    title = html.escape(block.title)
    head = "".join(
        f'<th scope="col"><span>{html.escape(name)}</span></th>'
        for name in block.columns
    )
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{_shaded(counts)}</tr>'
        for name, counts in zip(block.rows, block.counts, strict=True)
    )
    return (
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n'
        f'<table class="grid"><caption>{title}</caption>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
        f'</table></div>\n<p class="note">{html.escape(block.note)}</p>'
    )


def _shaded(counts: Sequence[int]) -> str:
    """Returns the cells of a row, shaded by their share of it."""
    total = max(1, sum(counts))
    cells = []
    for number in counts:
        share = number / total
        ink = ";color:#fff" if share > 0.5 else ""
        style = f' style="background:rgb(0 114 178/{share:.2f}){ink}"' if number else ""
        cells.append(f"<td{style}>{number:,}</td>")
    return "".join(cells)


@render_block.register
def _(block: Facts) -> str:
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in block.facts.items()
    )
    return f'<dl class="facts">{facts}</dl>'


@render_block.register
def _(block: Code) -> str:
    return f"<pre><code>{html.escape(block.text)}</code></pre>"


@render_block.register
def _(block: Details) -> str:
    blocks = "\n".join(map(render_block, block.blocks))
    return (
        f"<details><summary>{html.escape(block.summary)}</summary>\n{blocks}\n"
        "</details>"
    )
